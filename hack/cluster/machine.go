package main

import (
	"encoding/json"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"sync"
	"syscall"
	"time"
)

// A MachineSpec says how process 1 of a machine sets the machine up and what it keeps running. It is read
// from standard input, so that whoever starts the process can first put it where it belongs.
type MachineSpec struct {
	Name     string
	LibDir   string            // becomes /var/lib
	LogDir   string            // becomes /var/log
	Sysctls  map[string]string // files below /proc/sys that shall read so on this machine, and never change
	Services []Service
}

// A Service is a program that process 1 starts, and starts again when it ends.
type Service struct {
	Name string // also of its log, /var/log/NAME.log
	Path string
	Args []string
}

// restartPause keeps a service that cannot start from taking a core.
const restartPause = time.Second

// runMachine is process 1 of a machine: it shapes the mount namespace, starts the services and reaps
// whatever dies. It returns only with an error. When it ends, the kernel ends everything else in the machine.
func runMachine() error {
	var spec MachineSpec
	if err := json.NewDecoder(os.Stdin).Decode(&spec); err != nil {
		return fmt.Errorf("reading the machine's description: %w", err)
	}
	if os.Getpid() != 1 {
		return fmt.Errorf("process %d is no machine: it needs a PID namespace of its own", os.Getpid())
	}
	if err := syscall.Sethostname([]byte(spec.Name)); err != nil {
		return fmt.Errorf("setting the host name: %w", err)
	}
	if err := mountMachine(spec); err != nil {
		return err
	}
	signal.Ignore(syscall.SIGHUP)
	s := supervisor{running: map[int]Service{}, started: make(chan struct{}, 1)}
	for _, service := range spec.Services {
		s.start(service)
	}
	return s.reap()
}

// A supervisor keeps services running.
type supervisor struct {
	mu      sync.Mutex
	running map[int]Service // by process
	started chan struct{}   // holds a token after a start
}

// start runs a service, and tries again later when it cannot.
func (s *supervisor) start(service Service) {
	s.mu.Lock() // reap must not see the process before it is known
	defer s.mu.Unlock()
	pid, err := startService(service)
	if err != nil {
		logMachine("starting %s: %v", service.Name, err)
		time.AfterFunc(restartPause, func() { s.start(service) })
		return
	}
	logMachine("%s runs as process %d", service.Name, pid)
	s.running[pid] = service
	select {
	case s.started <- struct{}{}:
	default:
	}
}

// reap waits for every process that ends, the orphans that fall to process 1 among them.
func (s *supervisor) reap() error {
	for {
		var status syscall.WaitStatus
		pid, err := syscall.Wait4(-1, &status, 0, nil)
		switch err {
		case nil:
			s.ended(pid, status)
		case syscall.EINTR:
		case syscall.ECHILD: // every service waits to be started again
			<-s.started
		default:
			return fmt.Errorf("waiting for processes: %w", err)
		}
	}
}

func (s *supervisor) ended(pid int, status syscall.WaitStatus) {
	s.mu.Lock()
	defer s.mu.Unlock()
	service, ours := s.running[pid]
	if !ours {
		return
	}
	delete(s.running, pid)
	logMachine("%s (process %d) ended, exit code %d, signal %d: starting it again", service.Name, pid, status.ExitStatus(), status.Signal())
	time.AfterFunc(restartPause, func() { s.start(service) })
}

func startService(service Service) (int, error) {
	log, err := os.OpenFile(filepath.Join("/var/log", service.Name+".log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return 0, err
	}
	defer log.Close()
	null, err := os.Open(os.DevNull)
	if err != nil {
		return 0, err
	}
	defer null.Close()
	return syscall.ForkExec(service.Path, append([]string{service.Path}, service.Args...), &syscall.ProcAttr{
		Dir:   "/",
		Env:   []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/", "TMPDIR=/run/tmp"},
		Files: []uintptr{null.Fd(), log.Fd(), log.Fd()},
		Sys:   &syscall.SysProcAttr{Setsid: true},
	})
}

// logMachine writes to machine.log, which is process 1's standard error.
func logMachine(format string, args ...any) {
	fmt.Fprintf(os.Stderr, "%s "+format+"\n", append([]any{time.Now().UTC().Format(time.RFC3339)}, args...)...)
}
