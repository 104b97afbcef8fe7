// Images writes container images as docker archives, from programs that are built already, with no container
// engine. See the README beside it.
package main

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/networkobservability/networkobservability/artifacts/images/archive"
)

func main() {
	bin := flag.String("bin", "_output/bin", "folder of the built programs")
	out := flag.String("out", "_output/images", "folder for the archives")
	flag.Usage = func() {
		fmt.Fprintf(flag.CommandLine.Output(), "usage: images [flags] NAME...\n\nNAME is one of %s.\n\n", strings.Join(names(), ", "))
		flag.PrintDefaults()
	}
	flag.Parse()
	if err := writeAll(*bin, *out, flag.Args()); err != nil {
		fmt.Fprintln(os.Stderr, "images:", err)
		os.Exit(1)
	}
}

func writeAll(bin, out string, wanted []string) error {
	if len(wanted) == 0 {
		return fmt.Errorf("no image named: want some of %s", strings.Join(names(), ", "))
	}
	if err := os.MkdirAll(out, 0o755); err != nil {
		return err
	}
	for _, name := range wanted {
		recipe, found := recipes[name]
		if !found {
			return fmt.Errorf("no image is called %q: want some of %s", name, strings.Join(names(), ", "))
		}
		path := filepath.Join(out, name+".tar")
		image := recipe(bin)
		if err := writeImage(path, image); err != nil {
			return fmt.Errorf("making image %s: %w", name, err)
		}
		fmt.Printf("%s %s\n", path, image.Reference)
	}
	return nil
}

// writeImage leaves either the whole archive or what was there before.
func writeImage(path string, image archive.Image) error {
	file, err := os.CreateTemp(filepath.Dir(path), filepath.Base(path)+".*")
	if err != nil {
		return err
	}
	defer os.Remove(file.Name()) // gone already when all went well
	defer file.Close()
	if err := image.Write(file); err != nil {
		return err
	}
	if err := file.Chmod(0o644); err != nil {
		return err
	}
	if err := file.Close(); err != nil {
		return err
	}
	return os.Rename(file.Name(), path)
}

func names() []string {
	var all []string
	for name := range recipes {
		all = append(all, name)
	}
	slices.Sort(all)
	return all
}
