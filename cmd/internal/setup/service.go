package setup

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// Copies of the files of deploy, which a test compares with them.

//go:embed penstock.service
var mainUnit string

//go:embed penstock-lockdown.service
var lockdownUnit string

//go:embed penstock.sysusers.conf
var sysusers string

// unitProgram and unitConfig are the paths in the units.
const (
	unitProgram = "/usr/bin/penstock"
	unitConfig  = "/etc/penstock/config.yaml"
)

// unitFolders are where systemd looks for units, the first that has one first.
var unitFolders = []string{
	"/etc/systemd/system", "/run/systemd/system", "/usr/local/lib/systemd/system", "/usr/lib/systemd/system", "/lib/systemd/system",
}

// Service is penstock as a service of systemd.
type Service struct {
	Program string // the running penstock, absolute
	Config  string // its configuration, absolute
	Root    string // prefix of all paths; empty but in tests
	Run     func(ctx context.Context, name string, args ...string) error
}

// Available reports whether systemd runs on this machine.
func (s Service) Available() bool {
	info, err := os.Stat(s.Root + "/run/systemd/system")
	return err == nil && info.IsDir()
}

// installed returns the unit that is there already; empty if there is none.
func (s Service) installed() (path, text string) {
	for _, folder := range unitFolders {
		path := filepath.Join(s.Root, folder, "penstock.service")
		if text, err := os.ReadFile(path); err == nil {
			return path, string(text)
		}
	}
	return "", ""
}

// Fits returns an error if a unit is there that runs another configuration.
func (s Service) Fits() error {
	path, text := s.installed()
	if path != "" && !strings.Contains(text, " "+s.Config+" ") {
		return fmt.Errorf("the unit %s runs another configuration than %s: change it with systemctl edit penstock.service", path, s.Config)
	}
	if strings.ContainsAny(s.Program+s.Config, " \t%\"'\\$") {
		return fmt.Errorf("a unit cannot name %s and %s as they are: choose paths without blanks and quotes", s.Program, s.Config)
	}
	return nil
}

// Start installs the units, unless a package has, and starts penstock now and at each boot. It returns the files that it made.
func (s Service) Start(ctx context.Context) (made []string, err error) {
	if err := s.Fits(); err != nil {
		return nil, err
	}
	if path, _ := s.installed(); path == "" {
		if made, err = s.install(ctx); err != nil {
			return made, err
		}
	}
	for _, args := range [][]string{
		{"daemon-reload"}, {"enable", "penstock.service", "penstock-lockdown.service"}, {"start", "penstock.service"},
	} {
		if err := s.Run(ctx, "systemctl", args...); err != nil {
			return made, fmt.Errorf("%w: see journalctl -u penstock.service", err)
		}
	}
	return made, nil
}

// install writes the units, and makes the group and the user that they name.
func (s Service) install(ctx context.Context) (made []string, err error) {
	paths := strings.NewReplacer(unitProgram, s.Program, unitConfig, s.Config,
		"RequiresMountsFor=/etc/penstock ", "RequiresMountsFor="+filepath.Dir(s.Config)+" ")
	for _, f := range []struct{ path, text string }{
		{"/usr/lib/sysusers.d/penstock.conf", sysusers},
		{"/etc/systemd/system/penstock-lockdown.service", paths.Replace(lockdownUnit)},
		{"/etc/systemd/system/penstock.service", paths.Replace(mainUnit)},
	} {
		path := filepath.Join(s.Root, f.path)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return made, err
		}
		file, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o644)
		if errors.Is(err, fs.ErrExist) {
			continue
		}
		if err != nil {
			return made, err
		}
		made = append(made, path)
		_, err = file.WriteString(f.text)
		if err = errors.Join(err, file.Close()); err != nil {
			return made, err
		}
	}
	return made, s.Run(ctx, "systemd-sysusers")
}

// RunCommand runs a command. The error has what it printed.
func RunCommand(ctx context.Context, name string, args ...string) error {
	out, err := exec.CommandContext(ctx, name, args...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s %s: %w: %s", name, strings.Join(args, " "), err, strings.TrimSpace(string(out)))
	}
	return nil
}
