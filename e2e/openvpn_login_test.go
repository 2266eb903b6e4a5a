package e2e

import (
	"bufio"
	"encoding/base64"
	"fmt"
	"net"
	"strings"
	"testing"
	"time"
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

// laptop [pen0 -> penstock, penstock login] === OpenVPN ===> Debian's openvpn, which asks who its user is
func TestAnOpenVPNServerThatAsksItsUser(t *testing.T) {
	t.Parallel()
	w := newOpenVPNWorld(t, "udp4")
	w.edit(t, "server.conf", "verb 3\n", "verb 3\nmanagement "+w.path("m.sock")+" unix\nmanagement-client-auth\n")
	w.edit(t, "corp.ovpn", "nobind\n", "nobind\nauth-user-pass\n")
	w.edit(t, "laptop.yaml", "{config: corp.ovpn}", "{config: corp.ovpn, username: ana, password: {file: password}}")
	w.write(t, "password", "open sesame\n")
	w.serveOpenVPN(t)
	door := w.openDoor(t)
	w.laptop = start(t, w.Laptop, w.path("laptop.yaml"))

	asked := func(what, want string) {
		t.Helper()
		eventually(t, what, func() error {
			if r := w.laptop.cli(t, "status"); !strings.Contains(r.stdout, "sign in: "+want) || !strings.Contains(r.stdout, "corp waits for its user: penstock login corp") {
				return fmt.Errorf("%s", r)
			}
			return nil
		})
	}
	login := func(answer string) {
		t.Helper()
		r := run(t, w.Laptop, "sh", "-c", fmt.Sprintf("echo %s | %s --socket %s login corp", answer, built("penstock"), w.laptop.socket))
		if r.code != 0 {
			t.Errorf("penstock login: %s", r)
		}
	}
	inside := func() {
		t.Helper()
		w.connected(t)
		if r := w.laptop.cli(t, "status"); strings.Contains(r.stdout, "sign in") {
			t.Errorf("a question that is answered is still shown: %s", r)
		}
		tryAll(t, w.Laptop, []attempt{{"the intranet", "curl -4 https://intranet.corp.example/", "this is intranet.corp.example", nil}})
	}

	door.next(t, "connect open sesame")
	const page = "https://sso.corp.example/login?state=4711"
	door.order(t, "client-pending-auth", "WEB_AUTH::"+page+" 60")
	asked("the page is in the status", page)
	if r := w.laptop.cli(t, "login", "corp", "--print"); strings.TrimSpace(r.stdout) != page {
		t.Errorf("login --print: %s, want the page", r)
	}
	door.order(t, "client-auth-nt", "") // somebody has signed in there
	inside()

	w.laptop.must(t, "reconnect", "corp")
	door.next(t, "connect open sesame")
	door.order(t, "client-pending-auth", "CR_TEXT:R,E:Code_from_your_app 60")
	asked("the prompt is in the status", "Code_from_your_app")
	login("123456")
	door.next(t, "answer 123456")
	door.order(t, "client-auth-nt", "")
	inside()

	w.laptop.must(t, "reconnect", "corp")
	door.next(t, "connect open sesame")
	door.order(t, "client-deny", `"no" "CRV1:R,E:st4te:`+base64.StdEncoding.EncodeToString([]byte("ana"))+`:PIN"`)
	asked("the question of a refusal is in the status", "PIN")
	login("0815") // the refused attempt is over: the answer is for the next
	door.next(t, "connect open sesame")
	door.order(t, "client-deny", `"no" "CRV1:R,E:st4te:`+base64.StdEncoding.EncodeToString([]byte("ana"))+`:PIN"`)
	door.next(t, "connect CRV1::st4te::0815")
	door.order(t, "client-auth-nt", "")
	inside()
	w.nothingInClear(t)
}
