package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

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
gateway. On a machine with another WireGuard client, name the page with --url.

An OpenVPN server may ask while its transport connects: for a page to be opened, or for a password
or a code, which this command reads. From a script, pass it on the standard input.`,
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
				for _, s := range plain(answer).SignIns {
					if !s.Needed {
						fmt.Fprintf(e.stderr, "%s: %s\n", s.Transport, settled(s))
						continue
					}
					if s.Question != "" {
						err = answerQuestion(ctx, e, client, s)
					} else {
						err = show(s.URL)
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
	cmd.Flags().BoolVar(&printOnly, "print", false, "only print the URL")
	jsonFlag(cmd, &asJSON)
	return cmd
}

// signIns returns what there is to sign in to. A server that has refused somebody before is asked again.
func signIns(ctx context.Context, client *control.Client, name string) (control.SignIns, error) {
	order := control.Steer{Name: name}
	answer, err := client.SignIns(ctx, order)
	if err != nil || len(answer.SignIns) > 0 || name == "" {
		return answer, err
	}
	status, err := client.Status(ctx)
	if err != nil {
		return answer, err
	}
	i := slices.IndexFunc(status.Transports, func(t control.TransportStatus) bool { return t.Name == name && t.State == "blocked" })
	if i < 0 {
		return answer, nil
	}
	if err := client.Reconnect(ctx, order); err != nil {
		return answer, err
	}
	for range 100 { // 10 s for the server to ask
		if answer, err = client.SignIns(ctx, order); err != nil || len(answer.SignIns) > 0 {
			return answer, err
		}
		select {
		case <-ctx.Done():
			return answer, ctx.Err()
		case <-time.After(100 * time.Millisecond):
		}
	}
	return answer, nil
}

// answerQuestion asks the user what a server asks, and passes the answer on.
func answerQuestion(ctx context.Context, e *env, client *control.Client, s control.SignIn) error {
	in := bufio.NewReader(e.stdin)
	q := control.AnswerQuery{Transport: s.Transport, User: s.User}
	if s.NeedUser {
		fmt.Fprintf(e.stderr, "User name for %s: ", s.Transport)
		line, err := in.ReadString('\n')
		if q.User = strings.TrimRight(line, "\r\n"); q.User == "" {
			return errors.Join(errors.New("there is no user name on the standard input"), unlessEOF(err))
		}
	}
	fmt.Fprintf(e.stderr, "%s: ", s.Question)
	if f, ok := e.stdin.(*os.File); ok && !s.Echo && term.IsTerminal(int(f.Fd())) {
		secret, err := term.ReadPassword(int(f.Fd()))
		fmt.Fprintln(e.stderr)
		if err != nil {
			return err
		}
		q.Answer = string(secret)
	} else {
		line, err := in.ReadString('\n')
		if q.Answer = strings.TrimRight(line, "\r\n"); q.Answer == "" {
			return errors.Join(errors.New("there is no answer on the standard input"), unlessEOF(err))
		}
	}
	_, err := control.Ask[control.Done](ctx, client, "answer", q)
	return err
}

func unlessEOF(err error) error {
	if errors.Is(err, io.EOF) {
		return nil
	}
	return err
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
