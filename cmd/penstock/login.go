package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"penstock/cmd/internal/control"
)

// launchLimit is how long a browser may take to fail.
const launchLimit = 3 * time.Second

func newLoginCommand(e *env) *cobra.Command {
	var page string
	var printOnly, asJSON bool
	cmd := &cobra.Command{
		Use:   "login [TRANSPORT]",
		Short: "Sign in where a server asks for it",
		Long: `Open the page on which a gateway's users sign in, in a browser, and print its URL. The running
penstock asks each connected transport's DNS server, through the tunnel, whether it is such a
gateway. On a machine with another WireGuard client, name the page with --url.

An OpenVPN server may ask while its transport connects: for a page to be opened, or for a password
or a code. This command opens the page, or reads the answer, waits until the server has let its
user in, and says what the server said if it has not. What is typed is shown only if the server
says that it may be. From a script, pass each answer as a line of the standard input. If nobody
has answered in time, this command makes the server ask again. With several transports that wait,
name one.`,
		Args: takes(0, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			show := func(page string) error {
				u, err := url.Parse(page)
				if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" {
					return fmt.Errorf("%q is not the URL of a page", page)
				}
				fmt.Fprintln(e.stdout, printable(u.String()))
				if printOnly {
					return nil
				}
				if err := e.open(cmd.Context(), u.String()); err != nil {
					fmt.Fprintln(e.stderr, "open it in a browser:", err)
				}
				return nil
			}
			if page != "" {
				if err := show(page); err != nil {
					return usagef("%v: write http://HOST/", err)
				}
				return nil
			}
			return e.asking(func(ctx context.Context, client *control.Client, args []string) error {
				answer, err := signIns(ctx, client, strings.Join(args, ""))
				if err != nil {
					return err
				}
				if asJSON {
					return printJSON(e.stdout, answer)
				}
				if len(answer.SignIns) == 0 {
					return errors.New("no connected transport leads to a gateway with a page for signing in")
				}
				list := plain(answer).SignIns
				if names := wanting(list); len(names) > 1 && !printOnly {
					return usagef("%s want their users to sign in: name one, as in: penstock login %s", strings.Join(names, " and "), names[0])
				}
				d := &dialogue{env: e, client: client, show: show, printOnly: printOnly, in: bufio.NewReader(e.stdin)}
				for _, s := range list {
					switch {
					case !s.Needed:
						fmt.Fprintf(e.stderr, "%s: %s\n", s.Transport, settled(s))
					case s.ID == 0 && !s.Again: // a gateway
						err = show(s.URL)
					default:
						err = d.run(ctx, s)
					}
					if err != nil {
						return err
					}
				}
				return nil
			})(cmd, args)
		},
	}
	cmd.Flags().StringVar(&page, "url", "", "the page, if no penstock runs here")
	cmd.Flags().BoolVar(&printOnly, "print", false, "only print the URL, and wait for nothing")
	jsonFlag(cmd, &asJSON)
	return cmd
}

// signIns returns what there is to sign in to. A server that has refused somebody before is asked again.
func signIns(ctx context.Context, client *control.Client, name string) (control.SignIns, error) {
	answer, err := client.SignIns(ctx, control.Steer{Name: name})
	if err != nil || len(answer.SignIns) > 0 {
		return answer, err
	}
	status, err := client.Status(ctx)
	for _, t := range status.Transports {
		if t.Kind == "openvpn" && t.State == "blocked" && (t.Name == name || name == "" && t.Reason == "auth_failed") {
			answer.SignIns = append(answer.SignIns, control.SignIn{Transport: t.Name, Needed: true, Again: true, Why: t.Error})
		}
	}
	return answer, err
}

// wanting are the transports whose servers want their users to sign in.
func wanting(list []control.SignIn) (names []string) {
	for _, s := range list {
		if s.Needed {
			names = append(names, s.Transport)
		}
	}
	return names
}

// settled says why nobody has to sign in.
func settled(s control.SignIn) string {
	if s.User == "" {
		return "nobody has to sign in"
	}
	return fmt.Sprintf("%s has signed in until %s; to sign out: %s", s.User, moment(s.Until), s.URL)
}

// openPage opens a page in the user's browser.
func openPage(ctx context.Context, page string) error {
	words := map[string][]string{"darwin": {"open"}, "windows": {"rundll32", "url.dll,FileProtocolHandler"}}[runtime.GOOS]
	if words == nil {
		words = []string{"xdg-open"}
	}
	if os.Geteuid() == 0 {
		return errors.New("root has none of its own")
	}
	return launch(ctx, words[0], append(words[1:], page)...)
}

// launch starts a program that opens something, and waits for it for a while: without a desktop, xdg-open ends when its user closes
// the browser.
func launch(ctx context.Context, name string, args ...string) error {
	cmd := exec.Command(name, args...) // it stays when this command ends
	if err := cmd.Start(); err != nil {
		return err
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	select {
	case err := <-ended:
		return err
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(launchLimit):
		return nil
	}
}
