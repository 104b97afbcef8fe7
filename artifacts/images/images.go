package main

import (
	"path/filepath"
	"runtime"
	"strings"

	"github.com/networkobservability/networkobservability/artifacts/images/archive"
)

// nonRoot is the user that runs what needs no rights; distroless images use the same number.
const nonRoot = "65532:65532"

// A recipe makes the description of an image from the folder of built programs.
type recipe func(bin string) archive.Image

// recipes are all images by name. The first two are the product, as the Dockerfiles beside this file build
// it; the others serve the local cluster.
var recipes = map[string]recipe{
	"apiserver": func(bin string) archive.Image {
		return program(bin, "networkobservability-apiserver", nonRoot)
	},
	"nodeagent": func(bin string) archive.Image {
		return program(bin, "networkobservability-nodeagent", "0:0")
	},
	"pause":   pause,
	"coredns": coredns,
	"toolbox": toolbox,
}

// program is an image of one of our own programs and what a static program expects to find.
func program(bin, name, user string) archive.Image {
	return newImage("localhost/"+name+":dev", archive.Config{User: user, Entrypoint: []string{"/" + name}, WorkingDir: "/"},
		append(userFiles(), archive.File{Path: "/" + name, Mode: 0o755, Source: filepath.Join(bin, name)},
			archive.File{Path: "/tmp", Mode: 0o1777})...)
}

// pause holds a pod's namespaces and does nothing else.
func pause(bin string) archive.Image {
	return newImage("localhost/pause:dev", archive.Config{User: nonRoot, Entrypoint: []string{"/pause"}},
		archive.File{Path: "/pause", Mode: 0o755, Source: filepath.Join(bin, "pause")})
}

func coredns(bin string) archive.Image {
	return newImage("localhost/coredns:dev", archive.Config{User: nonRoot, Entrypoint: []string{"/coredns"}},
		append(userFiles(), archive.File{Path: "/coredns", Mode: 0o755, Source: filepath.Join(bin, "coredns")})...)
}

// busybox is of Debian's busybox-static.
const busybox = "/bin/busybox"

// applets are the names by which the toolbox's busybox is called.
const applets = `[ ash awk base64 basename cat chmod cp cut date dd df dirname echo env expr false find free grep
head hexdump hostname httpd id ifconfig ip kill ls md5sum mkdir mktemp mv nc netstat nproc nslookup od ping ping6
pkill printf ps pwd rm rmdir route sed seq sh sha256sum sleep sort stat tail tar tee test time timeout top touch
tr traceroute traceroute6 true truncate uname uniq uptime usleep vi wc wget which xargs yes`

// toolbox is for making traffic and looking around: busybox, and our own traffic program.
func toolbox(bin string) archive.Image {
	files := append(userFiles(),
		archive.File{Path: "/bin/busybox", Mode: 0o755, Source: busybox},
		archive.File{Path: "/bin/traffic", Mode: 0o755, Source: filepath.Join(bin, "traffic")},
		archive.File{Path: "/tmp", Mode: 0o1777},
		archive.File{Path: "/www/index.html", Mode: 0o644, Content: []byte("toolbox\n")})
	for _, name := range strings.Fields(applets) {
		files = append(files, archive.File{Path: "/bin/" + name, Mode: 0o777, Link: "busybox"})
	}
	config := archive.Config{Env: []string{"PATH=/bin"}, Cmd: []string{"/bin/httpd", "-f", "-p", "8080", "-h", "/www"}}
	return newImage("localhost/toolbox:dev", config, files...)
}

func newImage(reference string, config archive.Config, files ...archive.File) archive.Image {
	return archive.Image{Reference: reference, Architecture: runtime.GOARCH, Files: files, Config: config}
}

// userFiles give names to the two users that images use.
func userFiles() []archive.File {
	return []archive.File{
		{Path: "/etc/passwd", Mode: 0o644, Content: []byte("root:x:0:0:root:/:/sbin/nologin\nnonroot:x:65532:65532:nonroot:/:/sbin/nologin\n")},
		{Path: "/etc/group", Mode: 0o644, Content: []byte("root:x:0:\nnonroot:x:65532:\n")},
	}
}
