package e2e

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"penstock/e2e/netlab"
)

// enrolURL is where people join the gateway of the lab.
const enrolURL = "https://" + netlab.GatewayIPv4 + ":8443"

// newEnrolWorld is a world whose gateway invites people, and knows nobody yet.
func newEnrolWorld(t *testing.T) *world {
	t.Helper()
	w := newWorld(t)
	text := w.read(t, "gateway.yaml")
	i, j := strings.Index(text, "peers:\n"), strings.Index(text, "dns:\n")
	w.write(t, "gateway.yaml", text[:i]+text[j:])
	w.edit(t, "gateway.yaml", "listen:\n", "listen:\n  enrol: {url: \""+enrolURL+"\"}\n")
	w.edit(t, "gateway.yaml", "include:", "state_dir: .\ninclude:")
	for _, name := range []string{"peers.d", "enrol"} {
		if err := os.Mkdir(w.path(name), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Remove(w.path("corp.conf")); err != nil {
		t.Fatal(err)
	}
	return w
}

// asNobody gives the gateway's files to the user nobody, names beside those that each gateway has, and returns a program that runs
// penstock as that user without capabilities.
func (w *world) asNobody(t *testing.T, names ...string) string {
	t.Helper()
	setpriv := program(t, "setpriv")
	const nobody = 65534
	if err := os.Link(built("penstock"), w.path("penstock")); err != nil {
		t.Fatal(err)
	}
	script := w.path("as-nobody")
	w.write(t, "as-nobody", "#!/bin/sh\nexec "+setpriv+" --reuid=65534 --regid=65534 --clear-groups --bounding-set=-all "+w.path("penstock")+" \"$@\"\n")
	chmod(t, script, 0o755)
	for _, name := range append(names, "", "gateway.yaml", "gateway.key", "peers.d") {
		if err := os.Chown(w.path(name), nobody, nobody); err != nil {
			t.Skipf("this user may not give files away: %v", err)
		}
	}
	return script
}

// invite makes an invitation and returns its link.
func (w *world) invite(t *testing.T, name string, args ...string) string {
	t.Helper()
	return strings.TrimSpace(w.gateway.must(t, append([]string{"peer", "invite", name}, args...)...))
}

// join runs penstock join on a host.
func (w *world) join(t *testing.T, h *netlab.Host, link, file string) result {
	t.Helper()
	return run(t, h, built("penstock"), "join", link, "-o", w.path(file))
}

// attempts is how many attempts to join ended in a way.
func (w *world) attempts(t *testing.T, result string) int {
	t.Helper()
	return int(w.metric(t, w.Gateway, `penstock_enrol_attempts_total{result="`+result+`"}`))
}

// letter is a letter for the last digit of a number.
func letter(n int) byte { return byte('a' + n%10) }

// laptop [penstock join, then pen0 -> penstock] === WireGuard ===> [penstock, as nobody] gateway --- intranet
//
//	access router [guesses] --- HTTPS ---^
func TestPeopleJoinByInvitation(t *testing.T) {
	t.Parallel()
	w := newEnrolWorld(t)
	w.gateway = startProgram(t, w.Gateway, w.path("gateway.yaml"), w.asNobody(t, "enrol"))

	t.Run("a gateway that cannot write peers says so to whoever invites", func(t *testing.T) {
		if err := os.Chown(w.path("peers.d"), 0, 65534); err != nil {
			t.Fatal(err)
		}
		chmod(t, w.path("peers.d"), 0o750)
		if r := w.gateway.cli(t, "peer", "invite", "ana"); r.code != 1 || !strings.Contains(r.stderr, w.path("peers.d")) || !strings.Contains(r.stderr, "give the folder to its user") {
			t.Errorf("got %s", r)
		}
		if err := os.Chown(w.path("peers.d"), 65534, 65534); err != nil {
			t.Fatal(err)
		}
	})
	link := w.invite(t, "laptop", "--group", "staff")
	t.Run("who guesses is limited and counted", func(t *testing.T) {
		transport := &http.Transport{DialContext: w.Access.DialContext, TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}
		client := &http.Client{Transport: transport, Timeout: patience}
		defer transport.CloseIdleConnections()
		_, key := keyPair(t)
		guesses, refused := 0, 0
		guess := func() (looked bool) {
			t.Helper()
			i := guesses
			token := strings.Repeat("A", 17) + string([]byte{letter(i / 1000), letter(i / 100), letter(i / 10), letter(i)}) + "A"
			r, err := client.Post(enrolURL+"/join", "application/json", strings.NewReader(`{"token":"`+token+`","public_key":"`+key+`"}`))
			if err != nil {
				t.Fatal(err)
			}
			_, _ = io.Copy(io.Discard, r.Body)
			r.Body.Close()
			if r.StatusCode == http.StatusTooManyRequests {
				refused++
			} else if r.StatusCode != http.StatusForbidden {
				t.Fatalf("guess %d: got status %d", i, r.StatusCode)
			}
			guesses++
			return r.StatusCode == http.StatusForbidden
		}
		for guesses < 1000 {
			guess()
		}
		unknown, limited := w.attempts(t, "unknown"), w.attempts(t, "limited")
		if limited != refused || unknown+limited != guesses || unknown > 100 {
			t.Errorf("%d guesses were looked at and %d were not, %d by their answers", unknown, limited, refused)
		}
		eventually(t, "a guess is looked at again, after which none is for six seconds", func() error {
			if !guess() {
				return fmt.Errorf("too many attempts")
			}
			return nil
		})
		if r := w.join(t, w.Access, link, "guesser.conf"); r.code != 4 || !strings.Contains(r.stderr, "too many attempts") {
			t.Errorf("the guesser with a good link: got %s", r)
		}
	})
	t.Run("somebody in between gets nothing", func(t *testing.T) {
		wrong := link[:len(link)-43] + strings.Repeat("B", 42) + "A"
		if r := w.join(t, w.Laptop, wrong, "wrong.conf"); r.code != 1 || !strings.Contains(r.stderr, "somebody may be in between") || r.stdout != "" {
			t.Errorf("got %s", r)
		}
	})
	t.Run("a link that was taken back is refused", func(t *testing.T) {
		taken := w.invite(t, "ben")
		w.gateway.must(t, "peer", "uninvite", "ben")
		w.refused(t, taken, "revoked")
	})
	t.Run("a link is refused when its time is over", func(t *testing.T) {
		late := w.invite(t, "cleo", "--for", "1s")
		time.Sleep(2 * time.Second)
		w.refused(t, late, "expired")
	})
	t.Run("who is invited joins", func(t *testing.T) {
		r := w.join(t, w.Laptop, link, "corp.conf")
		if r.code != 0 || !strings.Contains(r.stdout, "\nprofile: \""+w.path("corp.conf")+"\"\n") {
			t.Fatalf("got %s", r)
		}
		w.write(t, "joined.yaml", r.stdout)
		if r := run(t, w.Laptop, built("penstock"), "check", "-c", w.path("joined.yaml")); r.code != 0 {
			t.Errorf("check of what join prints: %s", r)
		}
		w.untilPeers(t, "laptop idle")
	})
	t.Run("a link works once", func(t *testing.T) {
		w.refused(t, link, "used")
		if out := w.gateway.must(t, "peer", "invites"); !strings.Contains(out, "laptop   staff   used") {
			t.Errorf("peer invites: got\n%s", out)
		}
	})
	t.Run("no token and no key is left with the gateway", func(t *testing.T) {
		token, _, _ := strings.Cut(link[strings.Index(link, "#")+1:], ".")
		secrets := []string{token}
		for line := range strings.Lines(w.read(t, "corp.conf")) {
			if key, ok := strings.CutPrefix(line, "PrivateKey = "); ok {
				secrets = append(secrets, strings.TrimSpace(key))
			}
		}
		texts := map[string]string{"the log": w.gateway.said.String()}
		for _, name := range []string{"enrol/invitations.json", "peers.d/laptop.yaml"} {
			texts[name] = w.read(t, name)
		}
		for name, text := range texts {
			for _, secret := range secrets {
				if strings.Contains(text, secret) {
					t.Errorf("%s has a secret in it", name)
				}
			}
		}
		if len(secrets) != 2 {
			t.Errorf("%d secrets were looked for, want 2", len(secrets))
		}
	})
	w.watch(t) // from here on there is nothing but the tunnel
	w.laptop = start(t, w.Laptop, w.path("laptop.yaml"))
	w.connected(t)
	w.untilCarrying(t)
	w.untilPeers(t, "laptop active")
	w.nothingInClear(t)
}

// refused wants that a link is refused as all links are that are not valid, and that the log and the metrics know why.
func (w *world) refused(t *testing.T, link, why string) {
	t.Helper()
	before := w.attempts(t, why)
	r := w.join(t, w.Laptop, link, "refused.conf")
	if r.code != 4 || !strings.HasSuffix(r.stderr, "this invitation is not valid: ask for a new one\n") || r.stdout != "" {
		t.Errorf("%s: got %s", why, r)
	}
	if _, err := os.Stat(w.path("refused.conf")); err == nil {
		t.Errorf("%s: a file is left", why)
	}
	if n := w.attempts(t, why) - before; n != 1 || !strings.Contains(w.gateway.said.String(), `"reason":"`+why+`"`) {
		t.Errorf("%s: counted %d times, want once, and the reason in the log", why, n)
	}
}

// laptop [penstock join] --- HTTPS ---> [penstock, with a TUN of its own] gateway
func TestPeopleJoinAGatewayThatCapturesItsOwnMachine(t *testing.T) {
	t.Parallel()
	w := newEnrolWorld(t)
	w.edit(t, "gateway.yaml", "listen:\n", "listen:\n  tun: {name: pen0, address: [10.77.0.1/24, \"fd77::1/64\"], state_file: DIRECTORY/host.json}\n")
	w.edit(t, "gateway.yaml", "DIRECTORY", w.dir)
	w.gateway = start(t, w.Gateway, w.path("gateway.yaml"))
	if r := w.join(t, w.Laptop, w.invite(t, "laptop"), "corp.conf"); r.code != 0 {
		t.Errorf("got %s", r)
	}
	w.untilPeers(t, "laptop idle")
}

// laptop [penstock join, curl] --- HTTPS, with a certificate of an authority's ---> [penstock] gateway
func TestPeopleJoinAGatewayWithACertificateInFiles(t *testing.T) {
	t.Parallel()
	w := newEnrolWorld(t)
	pair, err := w.CA.Certificate(netlab.GatewayIPv4)
	if err != nil {
		t.Fatal(err)
	}
	key, err := x509.MarshalPKCS8PrivateKey(pair.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	var chain []byte
	for _, der := range pair.Certificate {
		chain = append(chain, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})...)
	}
	w.write(t, "cert.pem", string(chain))
	w.write(t, "key.pem", string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: key})))
	w.edit(t, "gateway.yaml", enrolURL+"\"}", enrolURL+"\", certificate: cert.pem, private_key: {file: key.pem}}")
	chmod(t, w.path("cert.pem"), 0o644) // a certificate is no secret
	w.gateway = start(t, w.Gateway, w.path("gateway.yaml"))
	link := w.invite(t, "laptop")
	if strings.Contains(link[strings.Index(link, "#"):], ".") {
		t.Errorf("the link pins a certificate that others vouch for: %s", link)
	}
	if r := w.join(t, w.Laptop, link, "strange.conf"); r.code != 1 || !strings.Contains(r.stderr, "somebody may be in between") {
		t.Errorf("a laptop that does not know the authority: got %s", r)
	}
	page := run(t, w.Laptop, program(t, "curl"), "-sS", "--noproxy", "*", "--cacert", netlab.CAFile, enrolURL+"/join")
	if page.code != 0 || !strings.Contains(page.stdout, "Make my key and join") {
		t.Errorf("the page: got %s", page)
	}
	cmd := w.Laptop.Command(t.Context(), built("penstock"), "join", link, "-o", w.path("corp.conf"))
	cmd.Env = append(os.Environ(), "SSL_CERT_FILE="+netlab.CAFile)
	if r := finish(t, cmd); r.code != 0 {
		t.Errorf("a laptop that knows it: got %s", r)
	}
	w.untilPeers(t, "laptop idle")
}

// authorityName is where the authority of the lab is.
const authorityName = "authority.example"

// startAuthority starts an authority that speaks ACME on the internet, and returns the file with its root.
func (w *world) startAuthority(t *testing.T) (root string) {
	t.Helper()
	const at = natsAddress // a free address of the internet
	if err := w.PublicDNS.Add(authorityName + ". 60 IN A " + at); err != nil {
		t.Fatal(err)
	}
	chain, key, err := w.CA.Files(authorityName)
	if err != nil {
		t.Fatal(err)
	}
	w.write(t, "authority.pem", string(chain))
	w.write(t, "authority.key", string(key))
	w.write(t, "authority.json", fmt.Sprintf(`{"pebble": {"listenAddress": "%s:14000", "managementListenAddress": "%s:15000",
		"certificate": %q, "privateKey": %q, "httpPort": 80, "tlsPort": 443, "keyAlgorithm": "ecdsa", "retryAfter": {"authz": 1, "order": 1}}}`,
		at, at, w.path("authority.pem"), w.path("authority.key")))
	cmd := w.Internet.Command(context.WithoutCancel(t.Context()), built("pebble"), "-config", w.path("authority.json"), "-dnsserver", netlab.ResolverIPv4+":53", "-strict")
	said := new(transcript)
	cmd.Stdout, cmd.Stderr = said, said
	cmd.Env = append(os.Environ(), "PEBBLE_VA_NOSLEEP=1")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		if t.Failed() {
			t.Logf("the authority said:\n%s", said)
		}
	})
	transport := &http.Transport{DialContext: w.Internet.DialContext, TLSClientConfig: &tls.Config{RootCAs: w.CA.Pool()}, DisableKeepAlives: true}
	client := &http.Client{Transport: transport, Timeout: patience}
	eventually(t, "the authority answers", func() error {
		r, err := client.Get("https://" + authorityName + ":15000/roots/0")
		if err != nil {
			return err
		}
		defer r.Body.Close()
		text, err := io.ReadAll(r.Body)
		w.write(t, "root.pem", string(text))
		return err
	})
	return w.path("root.pem")
}

// laptop [penstock join, curl] --- HTTPS, with a certificate of the authority's ---> [penstock, with a TUN of its own] gateway
//
//	internet [authority, by ACME] --- HTTP, at port 80 ---^
func TestPeopleJoinAGatewayThatGetsItsCertificateByACME(t *testing.T) {
	t.Parallel()
	w := newEnrolWorld(t)
	const url = "https://" + netlab.GatewayName + ":8443"
	w.edit(t, "gateway.yaml", enrolURL+"\"}", url+"\", acme: true}\n  tun: {name: pen0, address: [10.77.0.1/24, \"fd77::1/64\"], state_file: DIRECTORY/host.json}")
	w.edit(t, "gateway.yaml", "DIRECTORY", w.dir)
	w.edit(t, "gateway.yaml", "listen:\n", "acme: {agree: true, directory: \"https://"+authorityName+":14000/dir\", ca: "+netlab.CAFile+"}\nlisten:\n")
	w.gateway = start(t, w.Gateway, w.path("gateway.yaml")) // nothing waits for the authority, which is not there yet
	early := w.invite(t, "early")
	eventually(t, "the status says why there is no certificate", func() error {
		if r := w.gateway.cli(t, "status"); !strings.Contains(r.stdout, "listen.enrol has no certificate from the authority: "+authorityName+":14000 cannot be") {
			return fmt.Errorf("got %s", r)
		}
		return nil
	})
	if r := w.join(t, w.Laptop, early, "early.conf"); r.code != 0 {
		t.Errorf("before the authority has issued a certificate: got %s", r)
	}
	open := w.invite(t, "open")
	w.gateway.stop(t, os.Interrupt)
	root := w.startAuthority(t)
	w.gateway = start(t, w.Gateway, w.path("gateway.yaml")) // which tries at once
	curl := func(path string) result {
		return run(t, w.Laptop, program(t, "curl"), "-sS", "-o", "-", "-w", "%{http_code}", "--noproxy", "*", "--cacert", root, path)
	}
	eventually(t, "the page has a certificate of the authority's", func() error {
		if page := curl(url + "/join"); page.code != 0 || !strings.Contains(page.stdout, "Make my key and join") {
			return fmt.Errorf("got %s", page)
		}
		return nil
	})
	if r := w.join(t, w.Laptop, open, "open.conf"); r.code != 0 {
		t.Errorf("a link from before: got %s", r)
	}
	link := w.invite(t, "laptop")
	unpinned := link[:strings.LastIndex(link, ".")]
	if r := w.join(t, w.Laptop, unpinned, "strange.conf"); r.code != 1 || !strings.Contains(r.stderr, "somebody may be in between") {
		t.Errorf("a laptop that does not know the authority, with a link that pins nothing: got %s", r)
	}
	cmd := w.Laptop.Command(t.Context(), built("penstock"), "join", unpinned, "-o", w.path("corp.conf"))
	cmd.Env = append(os.Environ(), "SSL_CERT_FILE="+root)
	if r := finish(t, cmd); r.code != 0 {
		t.Errorf("a laptop that knows it: got %s", r)
	}
	if r := curl("http://" + netlab.GatewayName + "/join"); r.code != 0 || !strings.HasSuffix(r.stdout, "404") {
		t.Errorf("port 80: got %s, want nothing there", r)
	}
	if expiry := w.metric(t, w.Gateway, `penstock_acme_certificate_expiry_timestamp_seconds{site="listen.enrol"}`); expiry < float64(time.Now().Unix()) {
		t.Errorf("the metric says that the certificate expires at %v", expiry)
	}
}
