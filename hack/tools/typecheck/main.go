// Command typecheck type-checks packages and all they import, the bodies of functions included, as the compiler does for the
// GOOS and GOARCH of the environment. No code is generated, so that it takes a fifth of what compiling takes when nothing
// was compiled for that machine before.
//
//	GOARCH=arm64 typecheck PACKAGE...
package main

import (
	"fmt"
	"os"

	"golang.org/x/tools/go/packages"
)

func main() {
	loaded, err := packages.Load(&packages.Config{Mode: packages.LoadAllSyntax}, os.Args[1:]...)
	if err != nil {
		fmt.Fprintln(os.Stderr, "typecheck:", err)
		os.Exit(1)
	}
	if packages.PrintErrors(loaded) > 0 {
		os.Exit(1)
	}
}
