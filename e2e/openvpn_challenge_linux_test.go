package e2e

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// verifyLogin is a script for auth-user-pass-verify. It notes each login, and lets in whoever knows the password and the code.
const verifyLogin = `{ read -r user; read -r password; } < "$1"
echo "$user $password" >> DIR/logins
test "$user" = ana || exit 1
test "$password" = "SCRV1:$(printf 'open sesame' | base64):$(printf 123456 | base64)"
`

// laptop [pen0 -> penstock, whose profile has a static-challenge] === OpenVPN ===> Debian's openvpn with a script that checks the code
func TestAProfileThatAsksForACode(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		name, profile string
		shown         bool // what is typed
	}{
		{"that is not shown", `static-challenge "Code from your app" 0`, false},
		{"that may be shown", `static-challenge "Code from your app" 1`, true},
	} {
		t.Run(row.name, func(t *testing.T) {
			w := newOpenVPNWorld(t, "udp4")
			w.write(t, "verify.sh", strings.ReplaceAll(verifyLogin, "DIR", w.dir))
			w.write(t, "logins", "")
			w.edit(t, "server.conf", "verb 3\n", "verb 3\nscript-security 2\nauth-user-pass-verify \"/bin/sh "+w.path("verify.sh")+"\" via-file\n")
			w.edit(t, "corp.ovpn", "nobind\n", "nobind\nauth-user-pass\nauth-nocache\n"+row.profile+"\n")
			w.edit(t, "laptop.yaml", "{config: corp.ovpn}", "{config: corp.ovpn, username: ana, password: {file: password}}")
			w.write(t, "password", "open sesame\n")
			w.serveOpenVPN(t)
			w.laptop = start(t, w.Laptop, w.path("laptop.yaml"))
			logins := func() int { return strings.Count(w.read(t, "logins"), "\n") }

			w.asked(t, "the question of the profile is in the status", "sign in: Code from your app")
			if n := logins(); n != 0 {
				t.Errorf("the server met %d logins before somebody came", n)
			}
			login := w.login(t, "000000\n")
			if r := login.ended(); r.code != 1 || !strings.Contains(r.stderr, `the server refuses: "no reason given"; to try again: penstock login corp`) {
				t.Errorf("a wrong code: %s, want what the server said", r)
			}
			w.asked(t, "nobody is asked before somebody comes", "sign in: begin again")

			screen := w.typeCode(t, "Code from your app: ", "123456\n", row.shown)
			w.signedIn(t)
			if n := logins(); n != 2 {
				t.Errorf("the server met %d logins, want 2:\n%s", n, w.read(t, "logins"))
			}
			if got := screen.String(); strings.Contains(got, "123456") != row.shown || !strings.Contains(got, "corp: signed in") {
				t.Errorf("the terminal shows %q", got)
			}
			w.nothingInClear(t)
		})
	}
}

// typeCode runs penstock login on a terminal, and types once it shows the prompt and what is typed is shown, or not. It returns what the
// terminal showed.
func (w *world) typeCode(t *testing.T, prompt, keys string, shown bool) *transcript {
	t.Helper()
	near, far := terminal(t, 120, 40)
	cmd := w.Laptop.Command(context.WithoutCancel(t.Context()), built("penstock"), "--socket", w.laptop.socket, "login", "corp")
	cmd.Env = append(os.Environ(), "TERM=xterm-256color")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = far, far, far
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill() })
	far.Close() // near ends with the program then
	screen, read := new(transcript), make(chan struct{})
	go func() {
		defer close(read)
		_, _ = io.Copy(screen, near)
	}()
	eventually(t, "the terminal asks", func() error {
		if !strings.Contains(screen.String(), prompt) {
			return fmt.Errorf("it shows %q", screen.String())
		}
		settings, err := unix.IoctlGetTermios(int(near.Fd()), unix.TCGETS)
		if err == nil && (settings.Lflag&unix.ECHO != 0) != shown {
			err = errors.New("it has the wrong echo")
		}
		return err
	})
	if _, err := near.WriteString(keys); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Errorf("penstock login: %v; the terminal shows %q", err, screen.String())
	}
	<-read
	return screen
}
