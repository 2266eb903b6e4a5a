package e2e

import (
	"bufio"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"penstock/e2e/netlab"
)

// ovpnDoor decides who may come in, over the management interface of Debian's openvpn.
type ovpnDoor struct {
	conn net.Conn
	// met is what the server says of a client: "connect PASSWORD" or "answer TEXT".
	met chan string
	id  string // of the client that was met last; safe to read after a receive from met
}

// openDoor talks to the management socket of the world's server, until the test ends.
func (w *world) openDoor(t *testing.T) *ovpnDoor {
	t.Helper()
	conn, err := net.Dial("unix", w.path("m.sock"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	d := &ovpnDoor{conn: conn, met: make(chan string, 16)}
	go func() {
		lines := bufio.NewScanner(conn)
		id, password := "", ""
		for lines.Scan() {
			line := lines.Text()
			kind, rest, _ := strings.Cut(strings.TrimPrefix(line, ">CLIENT:"), ",")
			switch {
			case !strings.HasPrefix(line, ">CLIENT:"):
			case kind == "CONNECT":
				id = strings.ReplaceAll(rest, ",", " ")
			case kind == "ENV" && strings.HasPrefix(rest, "password="):
				password = strings.TrimPrefix(rest, "password=")
			case kind == "ENV" && rest == "END" && id != "":
				d.id = id
				d.met <- "connect " + password
				id = ""
			case kind == "CR_RESPONSE":
				answer, _ := base64.StdEncoding.DecodeString(rest[strings.LastIndex(rest, ",")+1:])
				d.met <- "answer " + string(answer)
			}
		}
	}()
	return d
}

// next waits for what the server says next.
func (d *ovpnDoor) next(t *testing.T, want string) {
	t.Helper()
	select {
	case got := <-d.met:
		if got != want {
			t.Fatalf("the server met %q, want %q", got, want)
		}
	case <-time.After(patience):
		t.Fatalf("the server did not meet %q", want)
	}
}

// order orders the server, with the client's numbers after the first word.
func (d *ovpnDoor) order(t *testing.T, word, rest string) {
	t.Helper()
	if _, err := fmt.Fprintf(d.conn, "%s %s %s\n", word, d.id, rest); err != nil {
		t.Fatal(err)
	}
}

// signing is a penstock login that runs.
type signing struct {
	cmd            *netlab.Cmd
	stdout, stderr transcript
}

// login runs penstock login on the laptop, with lines on its standard input.
func (w *world) login(t *testing.T, lines string, args ...string) *signing {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), 3*patience)
	t.Cleanup(cancel)
	s := &signing{cmd: w.Laptop.Command(ctx, built("penstock"), append([]string{"--socket", w.laptop.socket, "login"}, args...)...)}
	s.cmd.Stdin, s.cmd.Stdout, s.cmd.Stderr = strings.NewReader(lines), &s.stdout, &s.stderr
	if err := s.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	return s
}

// says waits until it has said something to its user.
func (s *signing) says(t *testing.T, want string) {
	t.Helper()
	eventually(t, "penstock login says "+want, func() error {
		if !strings.Contains(s.stderr.String(), want) {
			return fmt.Errorf("it said %q", s.stderr.String())
		}
		return nil
	})
}

// ended waits for its end.
func (s *signing) ended() result {
	_ = s.cmd.Wait() // the exit code says it
	return result{s.stdout.String(), s.stderr.String(), s.cmd.ProcessState.ExitCode()}
}

// asked waits until the status says what somebody must do, and that the transport waits for it.
func (w *world) asked(t *testing.T, what string, want ...string) {
	t.Helper()
	want = append(want, "corp waits for its user: penstock login corp", "waiting (sign_in)")
	eventually(t, what, func() error {
		r := w.laptop.cli(t, "status")
		for _, text := range want {
			if !strings.Contains(r.stdout, text) {
				return fmt.Errorf("want %q: %s", text, r)
			}
		}
		if r.code != 4 {
			return fmt.Errorf("want exit code 4: %s", r)
		}
		return nil
	})
}

// signedIn waits until the laptop is connected, and checks that nothing is asked any more.
func (w *world) signedIn(t *testing.T) {
	t.Helper()
	w.connected(t)
	if r := w.laptop.cli(t, "status"); strings.Contains(r.stdout, "sign in") {
		t.Errorf("a question that is answered is still shown: %s", r)
	}
	tryAll(t, w.Laptop, []attempt{{"the intranet", "curl -4 https://intranet.corp.example/", "this is intranet.corp.example", nil}})
}

// newSignOnWorld is a world whose OpenVPN server asks who its user is, over its management interface.
func newSignOnWorld(t *testing.T) *world {
	t.Helper()
	w := newOpenVPNWorld(t, "udp4")
	w.edit(t, "server.conf", "verb 3\n", "verb 3\nmanagement "+w.path("m.sock")+" unix\nmanagement-client-auth\n")
	w.edit(t, "corp.ovpn", "nobind\n", "nobind\nauth-user-pass\n")
	w.edit(t, "laptop.yaml", "{config: corp.ovpn}", "{config: corp.ovpn, username: ana, password: {file: password}}")
	w.write(t, "password", "open sesame\n")
	return w
}

const signOnPage = "https://sso.corp.example/login?state=4711"

// laptop [pen0 -> penstock, penstock login] === OpenVPN ===> Debian's openvpn, which asks who its user is
func TestAnOpenVPNServerThatAsksItsUser(t *testing.T) {
	t.Parallel()
	w := newSignOnWorld(t)
	w.serveOpenVPN(t)
	door := w.openDoor(t)
	w.laptop = start(t, w.Laptop, w.path("laptop.yaml"))

	t.Run("for a page", func(t *testing.T) {
		door.next(t, "connect open sesame")
		door.order(t, "client-pending-auth", "WEB_AUTH::"+signOnPage+" 60")
		w.asked(t, "the page is in the status", "sign in: "+signOnPage)
		if n := w.metric(t, w.Laptop, `penstock_transport_state{state="waiting",transport="corp"}`); n != 1 {
			t.Errorf("metrics: got %v, want the state waiting", n)
		}
		if r := run(t, w.Laptop, "curl", "-sS", "--max-time", "2", "--resolve", "public.example:443:"+publicIPv4, "https://public.example/"); r.code == 0 {
			t.Errorf("a site was reached while the transport waits: %s", r)
		}
		if r := w.laptop.cli(t, "login", "corp", "--print"); strings.TrimSpace(r.stdout) != signOnPage {
			t.Errorf("login --print: %s, want the page", r)
		}
		login := w.login(t, "")
		login.says(t, "waiting until you have signed in there")
		door.order(t, "client-auth-nt", "") // somebody has
		r := login.ended()
		for _, want := range []string{"corp: waiting until you have signed in there", "sends sso.corp.example through corp", "corp: signed in"} {
			if r.code != 0 || r.stdout != signOnPage+"\n" || !strings.Contains(r.stderr, want) {
				t.Errorf("penstock login: %s, want %q", r, want)
			}
		}
		w.signedIn(t)
	})
	t.Run("for a code, which is right", func(t *testing.T) {
		w.laptop.must(t, "reconnect", "corp")
		door.next(t, "connect open sesame")
		door.order(t, "client-pending-auth", "CR_TEXT:R,E:Code_from_your_app 60")
		w.asked(t, "the prompt is in the status", "sign in: Code_from_your_app")
		login := w.login(t, "123456\n", "corp")
		door.next(t, "answer 123456")
		door.order(t, "client-auth-nt", "")
		if r := login.ended(); r.code != 0 || !strings.Contains(r.stderr, "corp: signed in") {
			t.Errorf("penstock login: %s", r)
		}
		w.signedIn(t)
	})
	t.Run("for a code, which is wrong, and again", func(t *testing.T) {
		w.laptop.must(t, "reconnect", "corp")
		door.next(t, "connect open sesame")
		door.order(t, "client-pending-auth", "CR_TEXT:R:Code 60")
		w.asked(t, "the prompt is in the status", "sign in: Code")
		login := w.login(t, "000000\n")
		door.next(t, "answer 000000")
		door.order(t, "client-deny", `"no" "wrong code"`)
		if r := login.ended(); r.code != 1 || !strings.Contains(r.stderr, `the server refuses: "wrong code"; to try again: penstock login corp`) {
			t.Errorf("penstock login: %s, want what the server said", r)
		}
		w.asked(t, "nobody is asked before somebody comes", "sign in: begin again", "wrong code")
		login = w.login(t, "123456\n")
		door.next(t, "connect open sesame") // and none before
		door.order(t, "client-pending-auth", "CR_TEXT:R:Code 60")
		door.next(t, "answer 123456")
		door.order(t, "client-auth-nt", "")
		if r := login.ended(); r.code != 0 || !strings.Contains(r.stderr, "wrong code") {
			t.Errorf("penstock login: %s, want it signed in, after it said why", r)
		}
		w.signedIn(t)
	})
	t.Run("in its refusal", func(t *testing.T) {
		w.laptop.must(t, "reconnect", "corp")
		door.next(t, "connect open sesame")
		door.order(t, "client-deny", `"no" "CRV1:R,E:st4te:`+base64.StdEncoding.EncodeToString([]byte("ana"))+`:PIN"`)
		w.asked(t, "the question of a refusal is in the status", "sign in: PIN")
		login := w.login(t, "0815\n")
		door.next(t, "connect CRV1::st4te::0815") // without another question, which might send another code
		door.order(t, "client-auth-nt", "")
		if r := login.ended(); r.code != 0 {
			t.Errorf("penstock login: %s", r)
		}
		w.signedIn(t)
	})
	t.Run("and nobody comes", func(t *testing.T) {
		w.laptop.must(t, "reconnect", "corp")
		door.next(t, "connect open sesame")
		door.order(t, "client-pending-auth", "WEB_AUTH::"+signOnPage+" 2")
		w.asked(t, "the server's time is over", "nobody has signed in within the server's 2s", "sign in: begin again")
		login := w.login(t, "", "--print")
		door.next(t, "connect open sesame") // and none before
		door.order(t, "client-pending-auth", "WEB_AUTH::"+signOnPage+" 60")
		if r := login.ended(); r.code != 0 || r.stdout != signOnPage+"\n" {
			t.Errorf("penstock login --print: %s, want the page", r)
		}
		door.order(t, "client-auth-nt", "")
		w.signedIn(t)
	})
	t.Run("for what is no page", func(t *testing.T) {
		w.laptop.must(t, "reconnect", "corp")
		door.next(t, "connect open sesame")
		door.order(t, "client-pending-auth", "WEB_AUTH::file:///etc/passwd 60")
		eventually(t, "the transport is blocked", func() error {
			if r := w.laptop.cli(t, "status"); !strings.Contains(r.stdout, "an address that is neither http nor https") || strings.Contains(r.stdout, "sign in: ") {
				return fmt.Errorf("%s", r)
			}
			return nil
		})
		if r := w.laptop.cli(t, "login", "--print"); r.code == 0 || strings.Contains(r.stdout, "passwd") {
			t.Errorf("penstock login: %s", r)
		}
	})
	w.nothingInClear(t)
}

// laptop [curl, penstock that waits for its user] === OpenVPN ===> Debian's openvpn
//
//	\--- public.example, which the rules let out
func TestASignOnPageThatTheRulesLetOut(t *testing.T) {
	t.Parallel()
	w := newSignOnWorld(t)
	w.edit(t, "laptop.yaml", "rules:\n", "dns:\n  split: [{domains: [public.example], upstream: {address: 203.0.113.53, via: direct}}]\n"+
		"rules:\n  - {name: sign-on, match: {domain: public.example, protocol: tcp, port: 443}, do: direct}\n")
	w.serveOpenVPN(t)
	door := w.openDoor(t)
	w.laptop = start(t, w.Laptop, w.path("laptop.yaml"))
	door.next(t, "connect open sesame")
	door.order(t, "client-pending-auth", "WEB_AUTH::https://public.example/ 60")
	w.asked(t, "the page is in the status", "sign in: https://public.example/")
	login := w.login(t, "")
	login.says(t, "waiting until you have signed in there")
	tryAll(t, w.Laptop, []attempt{
		{"the page", "curl -4 https://public.example/", "this is public.example", nil},
		{"the intranet has no name", "curl -4 --max-time 3 https://intranet.corp.example/", "", []int{noSuchName, 28}},
	})
	w.laptop.stop(t, os.Interrupt)
	r := login.ended()
	if r.code != 3 {
		t.Errorf("penstock login: %s, want it told that penstock is gone", r)
	}
	if strings.Contains(r.stderr, "through corp") {
		t.Errorf("penstock login: %s, want no warning of a page that can be reached", r)
	}
}

// laptop [penstock] === OpenVPN, from one network and then another ===> Debian's openvpn, which gives tokens
func TestATokenSparesItsUserQuestions(t *testing.T) {
	t.Parallel()
	w := newSignOnWorld(t)
	w.edit(t, "server.conf", "verb 3\n", "verb 3\nauth-gen-token 3600\n")
	kill := w.serveOpenVPN(t)
	door := w.openDoor(t)
	w.laptop = start(t, w.Laptop, w.path("laptop.yaml"))
	door.next(t, "connect open sesame")
	door.order(t, "client-pending-auth", "WEB_AUTH::"+signOnPage+" 60")
	w.asked(t, "the page is in the status", "sign in: "+signOnPage)
	door.order(t, "client-auth-nt", "")
	w.signedIn(t)

	w.laptop.must(t, "reconnect", "corp")
	w.signedIn(t)
	if err := errors.Join(w.Disconnect(w.Uplinks[0]), w.Connect(w.Uplinks[1], 0)); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the laptop notices that it has moved", func() error {
		if !strings.Contains(w.laptop.said.String(), `"reason":"path_change"`) {
			return errors.New("its log has no change of path")
		}
		return nil
	})
	w.signedIn(t)

	kill() // the next server knows no token of this one
	w.serveOpenVPN(t)
	door = w.openDoor(t)
	door.next(t, "connect open sesame") // nobody was asked before
	door.order(t, "client-pending-auth", "WEB_AUTH::"+signOnPage+" 60")
	w.asked(t, "why it is asked again is in the status", "sign in: "+signOnPage, "because the session token has expired")
	door.order(t, "client-auth-nt", "")
	w.signedIn(t)
	if said := w.laptop.said.String(); strings.Contains(said, "SESS_ID") || strings.Contains(said, "open sesame") {
		t.Errorf("a secret is in the log:\n%s", said)
	}
	w.nothingInClear(t)
}
