package main

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"runtime"
	"strings"

	"github.com/spf13/cobra"

	"penstock/cmd/internal/control"
)

func newLoginCommand(e *env) *cobra.Command {
	var page string
	var printOnly, asJSON bool
	cmd := &cobra.Command{
		Use:   "login [TRANSPORT]",
		Short: "Sign in where a gateway asks for it",
		Long: `Open the page on which a gateway's users sign in, in a browser, and print its URL. The running
penstock asks each connected transport's DNS server, through the tunnel, whether it is such a
gateway. On a machine with another WireGuard client, name the page with --url.`,
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
				answer, err := client.SignIns(ctx, control.Steer{Name: strings.Join(args, "")})
				if err != nil {
					return err
				}
				if asJSON {
					return printJSON(e.stdout, answer)
				}
				if len(answer.SignIns) == 0 {
					return errors.New("no connected transport leads to a gateway with a page for signing in")
				}
				for _, s := range plain(answer).SignIns {
					if !s.Needed {
						fmt.Fprintf(e.stderr, "%s: %s\n", s.Transport, settled(s))
						continue
					}
					if err := show(s.URL); err != nil {
						return err
					}
				}
				return nil
			})(cmd, args)
		},
	}
	cmd.Flags().StringVar(&page, "url", "", "the page, if no penstock runs here")
	cmd.Flags().BoolVar(&printOnly, "print", false, "only print the URL")
	jsonFlag(cmd, &asJSON)
	return cmd
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
	return exec.CommandContext(ctx, words[0], append(words[1:], page)...).Run()
}
