package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"sync"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"penstock/cmd/internal/console"
	"penstock/cmd/internal/control"
)

func newConsoleCommand(e *env) *cobra.Command {
	var listen string
	var stay bool
	cmd := &cobra.Command{
		Use:   "console",
		Short: "Open the page that shows what penstock does",
		Long: `Print a link to the page that shows what the running penstock does, and open it in a browser if there is
one. The link works once, for five minutes, on this machine only, and the page may do what you may do.

If the configuration has no console.listen, this command serves the page itself until you press Ctrl-C.`,
		Args: takes(0, 0),
		RunE: e.asking(func(ctx context.Context, client *control.Client, _ []string) error {
			if !signal.Ignored(syscall.SIGHUP) { // a terminal that closes leaves no file with a link behind
				var stop context.CancelFunc
				ctx, stop = signal.NotifyContext(ctx, syscall.SIGHUP)
				defer stop()
			}
			if !stay && listen == "" {
				link, err := control.Ask[control.ConsoleLink](ctx, client, "console", struct{}{})
				switch {
				case err == nil:
					return openLink(ctx, e, link)
				case !errors.Is(err, control.ErrNotOffered):
					return err
				}
			}
			return serveConsole(ctx, e, client, listen)
		}),
	}
	cmd.Flags().StringVar(&listen, "listen", "", "serve the page here, a loopback `ADDRESS:PORT`, until Ctrl-C (default: a free port)")
	cmd.Flags().BoolVar(&stay, "serve", false, "serve the page from this command even if penstock does it, too")
	return cmd
}

// serveConsole serves the console of a running penstock with the rights of this process.
func serveConsole(ctx context.Context, e *env, client *control.Client, listen string) error {
	if listen == "" {
		listen = "127.0.0.1:0"
	}
	rights, err := control.Ask[control.Rights](ctx, client, "rights", struct{}{})
	if err != nil {
		return err
	}
	l, err := console.Listen(listen, net.Listen)
	if err != nil {
		return fmt.Errorf("--listen: %w", err)
	}
	s := console.New(console.Config{Listener: l, API: control.Forward(client), Version: version()})
	link, err := s.Link(control.As(ctx, "", rights.MayChange))
	if err != nil {
		return errors.Join(err, s.Close())
	}
	var opening sync.WaitGroup
	defer opening.Wait() // the file with the link is gone then
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	opening.Go(func() {
		if err := openLink(ctx, e, link); err != nil {
			fmt.Fprintln(e.stderr, "penstock:", err)
		}
		fmt.Fprintln(e.stderr, "serving the console until you press Ctrl-C")
	})
	return s.Run(ctx)
}

// openLink prints a link, and opens it in the browser of a graphical session.
func openLink(ctx context.Context, e *env, link control.ConsoleLink) error {
	if _, err := fmt.Fprintln(e.stdout, link.URL); err != nil {
		return err
	}
	if link.ReadOnly {
		fmt.Fprintln(e.stderr, "the page may only read, as you may: only root and the user who runs penstock may change anything")
	}
	if at, err := url.Parse(link.URL); err == nil && e.getenv("SSH_CONNECTION") != "" {
		fmt.Fprintf(e.stderr, "to open it where you sit, run there first: ssh -L %s:%s HOST\n", at.Port(), at.Host)
	}
	name, args := opener()
	if name == "" || !isTerminal(e.stdout) {
		return nil
	}
	// Every user of this machine may read the arguments of a program, and the link is a secret: the browser gets a file instead.
	dir, err := os.MkdirTemp(os.Getenv("XDG_RUNTIME_DIR"), "penstock-")
	if err != nil {
		return nil // the link is printed
	}
	defer os.RemoveAll(dir)
	page := filepath.Join(dir, "console.html")
	text := fmt.Sprintf("<!doctype html><meta charset=utf-8><meta http-equiv=refresh content='0;url=%s'><a href='%[1]s'>penstock</a>\n", link.URL)
	if err := os.WriteFile(page, []byte(text), 0o600); err != nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	if err := exec.CommandContext(ctx, name, append(args, page)...).Run(); err == nil {
		select { // the browser reads the file after its starter has returned
		case <-ctx.Done():
		case <-time.After(3 * time.Second):
		}
	}
	return nil
}

// opener is the program that opens a file in the browser of this user's graphical session; empty if there is none.
func opener() (name string, args []string) {
	switch {
	case runtime.GOOS == "darwin":
		return "open", nil
	case runtime.GOOS == "windows":
		return "rundll32", []string{"url.dll,FileProtocolHandler"}
	case os.Geteuid() == 0: // a browser of root is not what anybody wants
		return "", nil
	case os.Getenv("DISPLAY") != "" || os.Getenv("WAYLAND_DISPLAY") != "":
		return "xdg-open", nil
	}
	return "", nil
}
