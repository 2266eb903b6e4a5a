package main

import (
	"fmt"
	"runtime"
	"runtime/debug"

	"github.com/spf13/cobra"
)

func newVersionCommand(e *env) *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: "Print the version",
		Args:  takes(0, 0),
		RunE: func(*cobra.Command, []string) error {
			_, err := fmt.Fprintln(e.stdout, versionLine())
			return err
		},
	}
}

// release is what a package calls this build. The linker sets it: -X main.release=1.2.3.
var release string

// version is that of the package, or else the module's as the linker knows it, with the revision that it was built from.
func version() string {
	if release != "" {
		return release
	}
	version, revision := "unknown", ""
	if info, ok := debug.ReadBuildInfo(); ok {
		version = info.Main.Version
		for _, s := range info.Settings {
			if s.Key == "vcs.revision" {
				revision = " " + s.Value
			}
		}
	}
	return version + revision
}

// versionLine says what was built from what, with what, for what.
func versionLine() string {
	return fmt.Sprintf("penstock %s %s %s/%s", version(), runtime.Version(), runtime.GOOS, runtime.GOARCH)
}
