package bundle

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
)

// source is where a text about the host comes from: a file, or else a command.
type source struct {
	name, what string
	file       string
	command    []string
}

// sources are what is known of the host. Commands read only.
func sources() []source {
	if runtime.GOOS != "linux" {
		return []source{
			{"network/interfaces.txt", "interfaces and addresses", "", []string{"ifconfig", "-a"}},
			{"network/routes.txt", "routes", "", []string{"netstat", "-rn"}},
		}
	}
	return []source{
		{"system/os-release.txt", "the operating system", "/etc/os-release", nil},
		{"system/kernel.txt", "the kernel", "/proc/version", nil},
		{"system/resolv.conf.txt", "whom programs ask for names", "/etc/resolv.conf", nil},
		{"network/interfaces.txt", "interfaces and addresses", "", []string{"ip", "-details", "address"}},
		{"network/routes4.txt", "IPv4 routes", "", []string{"ip", "route", "show", "table", "all"}},
		{"network/routes6.txt", "IPv6 routes", "", []string{"ip", "-6", "route", "show", "table", "all"}},
		{"network/rules4.txt", "IPv4 policy routing", "", []string{"ip", "rule"}},
		{"network/rules6.txt", "IPv6 policy routing", "", []string{"ip", "-6", "rule"}},
		{"system/unit.txt", "the unit of the service", "", []string{"systemctl", "show", "penstock.service", "--property",
			"LoadState,ActiveState,SubState,UnitFileState,NRestarts,Result,ExecMainStatus,ActiveEnterTimestamp,MemoryCurrent,TasksCurrent"}},
		{"log.txt", "the last lines that the service logged", "", []string{"journalctl", "--unit", "penstock.service", "--lines", strconv.Itoa(logLines), "--no-pager", "--output", "short-iso"}},
	}
}

// system adds what is known of the host.
func (b *Bundle) system(ctx context.Context) {
	for _, s := range sources() {
		text, err := s.read(ctx)
		b.text(s.name, s.what, text, err)
	}
	if runtime.GOOS == "linux" {
		text, err := ownTables(ctx)
		b.text("network/nftables.txt", "the nftables tables of penstock", text, err)
	}
}

func (s source) read(ctx context.Context) (string, error) {
	if s.file != "" {
		text, err := os.ReadFile(s.file)
		return string(text), err
	}
	if s.command[0] == "journalctl" || s.command[0] == "systemctl" {
		if _, err := os.Stat("/run/systemd/system"); err != nil {
			return "", errors.New("systemd does not run here")
		}
	}
	return output(ctx, s.command...)
}

// output runs a command.
func output(ctx context.Context, command ...string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, commandTime)
	defer cancel()
	cmd := exec.CommandContext(ctx, command[0], command[1:]...)
	cmd.Env = append(os.Environ(), "LC_ALL=C")
	out, err := cmd.Output()
	var failed *exec.ExitError
	switch {
	case errors.Is(err, exec.ErrNotFound):
		return "", fmt.Errorf("there is no %s here", command[0])
	case errors.As(err, &failed) && len(failed.Stderr) > 0:
		return "", fmt.Errorf("%s: %s", strings.Join(command, " "), strings.TrimSpace(string(failed.Stderr)))
	case err != nil:
		return "", fmt.Errorf("%s: %w", strings.Join(command, " "), err)
	}
	return string(out), nil
}

// ownTables lists the nftables tables that penstock made.
func ownTables(ctx context.Context) (string, error) {
	list, err := output(ctx, "nft", "list", "tables")
	if err != nil {
		return "", err
	}
	var all strings.Builder
	for line := range strings.Lines(list) {
		words := strings.Fields(line) // table inet penstock_pen0
		if len(words) != 3 || !strings.HasPrefix(words[2], "penstock_") {
			continue
		}
		text, err := output(ctx, "nft", "list", "table", words[1], words[2])
		if err != nil {
			return "", err
		}
		all.WriteString(text)
	}
	if all.Len() == 0 {
		return "there is none\n", nil
	}
	return all.String(), nil
}
