package bundle

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"penstock/cmd/internal/config"
	"penstock/cmd/internal/control"
)

// marked are the secrets of the test, by where each is.
type marked struct {
	t    *testing.T
	dir  string
	list map[string]string
}

// secret makes a secret that is in a file of its own.
func (m *marked) secret(where string) config.Secret {
	m.t.Helper()
	return config.Secret{File: m.file(where+".key", m.value(where))}
}

// value makes a secret.
func (m *marked) value(where string) string {
	v := "Zq7" + strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' {
			return r
		}
		return -1
	}, where) + fmt.Sprint(len(m.list)) + "xW"
	m.list[where] = v
	return v
}

// key makes a WireGuard key.
func (m *marked) key(where string) string {
	raw := bytes.Repeat([]byte{byte(len(m.list) + 1)}, 32)
	copy(raw, where)
	v := base64.StdEncoding.EncodeToString(raw)
	m.list[where] = v
	m.list[where+", hexadecimal"] = fmt.Sprintf("%x", raw)
	return v
}

func (m *marked) file(name, text string) string {
	m.t.Helper()
	path := filepath.Join(m.dir, name)
	if err := os.WriteFile(path, []byte(text+"\n"), 0o600); err != nil {
		m.t.Fatal(err)
	}
	return path
}

// configuration is one with a secret in every place that has one.
func (m *marked) configuration() *config.Config {
	profile := m.file("hq.conf", "[Interface]\nPrivateKey = "+m.key("profile private key")+"\nAddress = 10.99.0.2/32\n[Peer]\nPublicKey = x\nPresharedKey = "+m.key("profile preshared key"))
	inline := "-----BEGIN PRIVATE KEY-----\n" + m.value("inline key") + "\n-----END PRIVATE KEY-----"
	m.file("phrase.txt", m.value("phrase in a file of a profile"))
	ovpn := m.file("legacy.ovpn", "client\nremote vpn.corp.example\naskpass phrase.txt\n<auth-user-pass>\n"+m.value("inline user")+"\n"+m.value("inline password")+
		"\n</auth-user-pass>\n<key>\n"+inline+"\n</key>\n<tls-crypt>\n"+m.value("static key")+"\n</tls-crypt>")
	return &config.Config{
		Path: filepath.Join(m.dir, "c.yaml"),
		Listen: config.Listen{
			WireGuard: &config.WireGuardListen{ListenPort: 51820, Address: []netip.Prefix{netip.MustParsePrefix("10.99.0.1/24")}, PrivateKey: m.secret("gateway key"), Endpoint: "gate.corp.example:51820"},
			Enrol:     &config.EnrolListen{URL: "https://join.corp.example", PrivateKey: m.secret("enrol key")},
		},
		Peers: config.ListPeers(
			config.Peer{Name: "marta", PublicKey: base64.StdEncoding.EncodeToString(bytes.Repeat([]byte{9}, 32)), PresharedKey: m.secret("peer psk"), ProxyPassword: m.secret("proxy password"),
				AllowedIPs: []netip.Prefix{netip.MustParsePrefix("10.99.0.7/32")}, Groups: []string{"staff"}},
			config.Peer{Name: "otto.maier"},
		),
		SignIn: &config.SignIn{},
		Transports: map[string]config.Transport{
			"corp":   {WireGuard: &config.WireGuard{Config: profile}},
			"own":    {WireGuard: &config.WireGuard{PrivateKey: m.secret("transport key"), Peers: []config.WireGuardPeer{{PresharedKey: m.secret("transport psk"), Endpoint: "far.corp.example:1"}}}},
			"legacy": {OpenVPN: &config.OpenVPN{Config: ovpn, Username: "martalogin", Password: m.secret("ovpn password"), KeyPassphrase: m.secret("ovpn passphrase")}},
		},
		Categories: map[string]config.Category{"ads": {Lists: []config.List{{URL: "https://listuser:" + m.value("list password") + "@lists.example/a.txt?token=" + m.value("list token")}}}},
		DNS: config.DNS{
			Upstreams: []config.Upstream{{Address: "https://dns.example/" + m.value("upstream path of a subscriber")}},
			Split:     []config.Split{{Domains: []string{"corp.example", "werk"}}},
			Records:   map[string]config.Record{"printer": {Short: []netip.Addr{netip.MustParseAddr("10.20.0.9")}}},
			Serve:     &config.DNSServe{Name: "dns.phones.example", Key: m.secret("serve key")},
		},
		Rules:    []config.Rule{{Name: "no-bets", Match: &config.Match{Domain: []string{"*.casino.example"}, Peer: []string{"marta"}, User: []string{"Marta@corp.example"}}, Do: config.Do{Action: "block"}}},
		OnDemand: []config.OnDemand{{If: &config.Condition{SSID: []string{"Werk Gast"}}}},
	}
}

// told is a running penstock whose every text has every secret and every name.
type told struct{ text string }

func (f told) Status(context.Context) (control.Status, error) {
	return control.Status{State: "blocked", Verdict: f.text, ReloadError: f.text, Transports: []control.TransportStatus{{Name: "corp", Error: f.text, Endpoint: "203.0.113.7:51820", Warnings: []string{f.text}}}}, nil
}

func (f told) Rules(context.Context) (control.Rules, error) {
	return control.Rules{Rules: []control.RuleStatus{{Name: "no-bets", Match: f.text, Hits: 17}}}, nil
}

func (f told) Lists(context.Context) (control.Lists, error) {
	return control.Lists{Lists: []control.ListStatus{{List: f.text, Error: f.text}}}, nil
}

func (f told) Peers(context.Context) (control.Peers, error) {
	return control.Peers{Peers: []control.PeerStatus{{Name: "gast", Addresses: []string{"10.99.0.8/32"}, User: "gustav", State: "idle", Endpoint: "203.0.113.8:4711", Position: "/etc/penstock/peers.d/gast.yaml:1"}}}, nil
}

func (f told) Flows(_ context.Context, q control.FlowQuery) (control.Flows, error) {
	return control.Flows{Flows: []control.Flow{{ID: "f1", Proto: "dns", Src: "10.99.0.7:5000", Dst: "[2001:db8:5::7]:443", Peer: "marta", Host: "werkzeug", Reason: f.text, Names: []control.Name{{Host: "intern.corp.example", Source: "dns"}}}}}, nil
}

// unpack returns the raw bytes of an archive, and its files.
func unpack(t *testing.T, b *Bundle) (raw string, files map[string]string) {
	t.Helper()
	var packed bytes.Buffer
	if err := b.Write(&packed); err != nil {
		t.Fatal(err)
	}
	zip, err := gzip.NewReader(&packed)
	if err != nil {
		t.Fatal(err)
	}
	all, err := io.ReadAll(zip)
	if err != nil {
		t.Fatal(err)
	}
	files = make(map[string]string)
	for archive := tar.NewReader(bytes.NewReader(all)); ; {
		head, err := archive.Next()
		if errors.Is(err, io.EOF) {
			return string(all), files
		}
		if err != nil {
			t.Fatal(err)
		}
		text, err := io.ReadAll(archive)
		if err != nil || head.Mode != 0o600 {
			t.Fatalf("%s: mode %o, %v", head.Name, head.Mode, err)
		}
		files[strings.TrimPrefix(head.Name, folder)] = string(text)
	}
}

// collectMarked collects an archive of a world in which every text has all secrets, and all names.
func collectMarked(t *testing.T, keep bool) (m *marked, raw string, files map[string]string) {
	t.Helper()
	m = &marked{t: t, dir: t.TempDir(), list: make(map[string]string)}
	cfg := m.configuration()
	var everything strings.Builder
	for _, value := range m.list {
		fmt.Fprintf(&everything, "said %s, %q and key=%s; ", value, value, value)
	}
	// What no configuration knows, but looks like a secret.
	everything.WriteString("Authorization: Bearer " + m.value("bearer token") + " https://join.corp.example/#" + m.value("invitation") + " password=" + m.value("password in a log") +
		" token: \"" + m.value("token in a log") + "\" tunnel " + m.key("unknown key") + " proxy ana:" + m.value("proxy login") + "@proxy.corp.example:3128 " +
		"-----BEGIN EC PRIVATE KEY-----\n" + m.value("pem") + "\n-----END EC PRIVATE KEY----- sni " + m.value("label of a phone") + ".dns.phones.example host=https://x:" + m.value("named url") + "@y.example/ ")
	everything.WriteString("peer marta, marta.yaml, MARTA, otto.maier of Werk Gast at wiki.corp.example (10.20.0.10, fd20::10: gone) printer werk werkzeug mail Marta@corp.example 00:11:22:aa:bb:cc in /home/" + "marta/x at 15:33:22")
	text := everything.String()
	metrics := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprintf(w, "go_goroutines 41\npenstock_peer_rx_bytes_total{peer=\"marta\"} 7\n# %s\n", strings.ReplaceAll(text, "\n", " "))
	}))
	t.Cleanup(metrics.Close)
	cfg.Metrics.Listen = metrics.Listener.Addr().String()
	b, err := Collect(t.Context(), Config{
		Running: told{text}, Loaded: cfg, Findings: []control.Finding{{Name: "ports", Result: "fault", Found: text, Mend: text}}, Version: "penstock v1", Names: keep, Now: time.Now(),
	})
	if err != nil {
		t.Fatal(err)
	}
	raw, files = unpack(t, b)
	return m, raw, files
}

func TestNoSecretIsInTheArchive(t *testing.T) {
	for _, keep := range []bool{false, true} {
		m, raw, files := collectMarked(t, keep)
		if len(m.list) < 25 {
			t.Fatalf("the test has only %d secrets", len(m.list))
		}
		for where, value := range m.list {
			if i := strings.Index(raw, value); i >= 0 {
				t.Errorf("names kept %v: the secret %s is in the archive: %q", keep, where, raw[max(i-80, 0):min(i+80, len(raw))])
			}
		}
		for _, name := range []string{"doctor.txt", "status.json", "rules.json", "lists.json", "peers.json", "flows.json", "refused.json", "configuration.json", "metrics.txt", "process.txt", "README.txt"} {
			if files[name] == "" {
				t.Errorf("names kept %v: %s is not in the archive", keep, name)
			}
		}
	}
}

func TestNamesAreHashes(t *testing.T) {
	_, raw, files := collectMarked(t, false)
	for _, name := range []string{
		"marta", "otto", "maier", "gast", "gustav", "werkzeug", "corp.example", "wiki", "printer", "casino", "lists.example", "dns.example", "intern", "phones",
		"10.20.0.", "10.99.0.", "203.0.113.", "2001:db8", "fd20:", "00:11:22", `"werk"`, " werk ",
	} {
		if i := strings.Index(strings.ToLower(raw), name); i >= 0 {
			t.Errorf("%s is in the archive: %q", name, raw[max(i-80, 0):min(i+80, len(raw))])
		}
	}
	for file, want := range map[string][]string{
		"flows.json":         {`"name-inside-`, `"peer": "peer-`, `"src": "v4-inside-`, `-`, `"dst": "[v6-outside-`, `:443"`, `.example"`},
		"configuration.json": {`"no-bets"`, `"listen_port": 51820`, `"file": "`, `"*.name-`, `"staff"`},
		"rules.json":         {`"hits": 17`, "15:33:22"},
		"metrics.txt":        {"penstock_peer_rx_bytes_total{peer=", "} 7"},
		"process.txt":        {"go_goroutines 41"},
	} {
		for _, w := range want {
			if !strings.Contains(files[file], w) {
				t.Errorf("%s: got\n%s\nwant %s in it", file, files[file], w)
			}
		}
	}
	peer := files["flows.json"][strings.Index(files["flows.json"], `"peer": "`)+9:]
	peer = peer[:strings.Index(peer, `"`)]
	if !strings.Contains(files["configuration.json"], peer) {
		t.Errorf("the peer is %s in the flows and something else in the configuration", peer)
	}
	if _, again, _ := collectMarked(t, false); strings.Contains(again, peer) {
		t.Error("another archive has the same hashes")
	}
	if _, kept, _ := collectMarked(t, true); !strings.Contains(kept, "wiki.corp.example") || !strings.Contains(kept, "10.20.0.10") {
		t.Error("with names: they are not in the archive")
	}
}

func TestWhatIsMissingIsListed(t *testing.T) {
	b, err := Collect(t.Context(), Config{Absent: control.ErrNotRunning, Fault: errors.New("c.yaml: there is no file"), Now: time.Now()})
	if err != nil {
		t.Fatal(err)
	}
	_, files := unpack(t, b)
	for _, want := range []string{"missing: the state", "the last flows", "penstock is not running", "there is no file"} {
		if !strings.Contains(files["README.txt"], want) {
			t.Errorf("got\n%s\nwant %q", files["README.txt"], want)
		}
	}
	if !slices.ContainsFunc(b.Missing, func(m Missing) bool { return strings.Contains(m.What, "the metrics") }) {
		t.Errorf("got %+v, want the metrics among them", b.Missing)
	}
}

func TestScrubbing(t *testing.T) {
	s := newScrubber(false)
	s.know("ana", "peer")
	for _, row := range []struct{ sentence, text, want string }{
		{"a file of no name stays", "/etc/penstock/config.yaml:7:5", "/etc/penstock/config.yaml:7:5"},
		{"a key of the configuration stays", "metrics.listen, dns.split", "metrics.listen, dns.split"},
		{"a time stays", "2031-05-06T12:13:14.123456Z at 12:13:14", "2031-05-06T12:13:14.123456Z at 12:13:14"},
		{"addresses that are everybody's stay", "0.0.0.0/0 ::/0 127.0.0.1:53 [::1]:53 ff02::1", "0.0.0.0/0 ::/0 127.0.0.1:53 [::1]:53 ff02::1"},
		{"a part of a word is no name", "banana", "banana"},
		{"a query goes", "https://127.0.0.1/?a=b", "https://127.0.0.1/?(left out)"},
	} {
		if got := s.text(row.text); got != row.want {
			t.Errorf("%s: got %q, want %q", row.sentence, got, row.want)
		}
	}
	if got := s.text("fd00::1: x host_10.1.2.3_ ana"); strings.Contains(got, "fd00") || strings.Contains(got, "10.1") || strings.Contains(got, "ana") {
		t.Errorf("got %q, want no address and no name", got)
	}
	if a, b := s.text("Wiki.Corp.Example."), s.text("wiki.corp.example"); strings.TrimSuffix(a, ".") != b {
		t.Errorf("got %q and %q, want one hash of one name", a, b)
	}
}

func FuzzSecretsNeverSurvive(f *testing.F) {
	f.Add("key ", " end")
	f.Add("https://u:", "@h.example/x")
	f.Add(`{"a":"`, `"}`)
	f.Fuzz(func(t *testing.T, before, after string) {
		const value = "Zq7markerxW"
		if strings.Contains(before+after, "Zq7") {
			return
		}
		s := newScrubber(len(before)%2 == 0)
		s.hide(value)
		if got := string(s.sweep([]byte(s.lines(before + value + after)))); strings.Contains(got, value) {
			t.Errorf("got %q", got)
		}
	})
}
