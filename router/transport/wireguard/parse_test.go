package wireguard

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"testing/iotest"
	"time"
)

// Keys of the tests, from the documentation of wg(8). They guard nothing.
const (
	testPrivateKey = "yAnz5TF+lXXJte14tji3zlMNq+hd2rYUIgJBgB3fBmk="
	testPublicKey  = "xTIBA5rboUvnH4htodjb6e697QjLERt1NAB4mZqp8Dg="
	otherPublicKey = "TrMvSoP4jYQlY6RIzBgbssQqY3vxI2Pi+y71lOWWXX0="
	testPreshared  = "FpCyhws9cxwWoV4xELtfJvjJN+zQVRPISllRWgeopVE="
)

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

func TestParseConfig(t *testing.T) {
	const text = "\ufeff# corp\r\n" +
		`[interface]
PRIVATEKEY = ` + testPrivateKey + ` # ours
Address = 10.77.0.2/24, fd77::2
address=10.78.0.2
SaveConfig = false
DNS = 10.77.0.1, corp.example, ~lab.example
DNS = fd77::1
MTU = 1380
ListenPort = 51821
FwMark = 0xca6c
Table = off

[Peer]
PublicKey = ` + testPublicKey + `
PresharedKey = ` + testPreshared + `
AllowedIPs = 10.0.0.1/8 , ::/0
AllowedIPs = 192.0.2.1
Endpoint = vpn.example:51820
PersistentKeepalive = 25

[PEER]
PublicKey = ` + otherPublicKey + `
AllowedIPs =
Endpoint = [2001:db8::1]:51820
PersistentKeepalive = off
`
	got, err := ParseConfig(strings.NewReader(text), "corp.conf")
	if err != nil {
		t.Fatal(err)
	}
	want := &Config{
		PrivateKey:    must(ParsePrivateKey(testPrivateKey)),
		Addresses:     []netip.Prefix{netip.MustParsePrefix("10.77.0.2/24"), netip.MustParsePrefix("fd77::2/128"), netip.MustParsePrefix("10.78.0.2/32")},
		DNS:           []netip.Addr{netip.MustParseAddr("10.77.0.1"), netip.MustParseAddr("fd77::1")},
		SearchDomains: []string{"corp.example", "~lab.example"},
		MTU:           1380,
		ListenPort:    51821,
		Peers: []Peer{{
			PublicKey:           must(ParsePublicKey(testPublicKey)),
			PresharedKey:        must(ParsePresharedKey(testPreshared)),
			AllowedIPs:          []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("::/0"), netip.MustParsePrefix("192.0.2.1/32")},
			Endpoints:           []Endpoint{{"vpn.example", 51820}},
			PersistentKeepalive: 25 * time.Second,
		}, {
			PublicKey: must(ParsePublicKey(otherPublicKey)),
			Endpoints: []Endpoint{{"2001:db8::1", 51820}},
		}},
		Warnings: []string{
			"corp.conf:11: FwMark is ignored: penstock marks its sockets with its own mark",
			"corp.conf:12: Table is ignored: penstock sets the host's routes itself, and AllowedIPs and its rules decide what goes through the tunnel",
		},
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
}

// parse reads a file with what every file needs, and more lines in each section.
func parse(iface, peer string) (*Config, error) {
	return ParseConfig(strings.NewReader("[Interface]\nPrivateKey = "+testPrivateKey+"\nAddress = 10.77.0.2\n"+iface+
		"\n[Peer]\nPublicKey = "+testPublicKey+"\nEndpoint = vpn.example:51820\n"+peer+"\n"), "x.conf")
}

func TestLinesWithoutEffectAreWarnings(t *testing.T) {
	const none = ""
	for _, row := range []struct{ iface, want string }{
		{"PostUp = iptables -A FORWARD -i %i -j ACCEPT", "x.conf:4: PostUp is ignored: nothing in a profile is run; penstock sets DNS and routes itself"},
		{"predown = curl -u me:" + testPrivateKey, "x.conf:4: PreDown is ignored: nothing in a profile is run; penstock sets DNS and routes itself"},
		{"SaveConfig = true", "x.conf:4: SaveConfig is ignored: penstock does not write to this file"},
		{"SaveConfig = false", none},
		{"SaveConfig = no", none},
		{"Table = 101", "x.conf:4: Table is ignored: penstock sets the host's routes itself, and AllowedIPs and its rules decide what goes through the tunnel"},
		{"Table = off", "x.conf:4: Table is ignored: penstock sets the host's routes itself, and AllowedIPs and its rules decide what goes through the tunnel"},
		{"Table = auto", none},
		{"FwMark = 51820", "x.conf:4: FwMark is ignored: penstock marks its sockets with its own mark"},
		{"FwMark = off", none},
		{"FwMark = 0", none},
		{"ExcludedApplications = org.example.bank", "x.conf:4: ExcludedApplications is ignored: choose programs in the rules of the configuration, with process or uid"},
	} {
		c, err := parse(row.iface, "AllowedIPs = 0.0.0.0/0")
		if err != nil {
			t.Errorf("%s: %v", row.iface, err)
			continue
		}
		if got := strings.Join(c.Warnings, "\n"); got != row.want {
			t.Errorf("%s: got %q, want %q", row.iface, got, row.want)
		}
	}
}

func TestSpellingsOfEditorsAndShells(t *testing.T) {
	all := "[10.0.0.0/8 192.0.2.0/24]"
	for _, row := range []struct{ name, iface, peer string }{
		{"commas without blanks", "DNS=10.77.0.1,corp.example", "AllowedIPs=10.0.0.0/8,192.0.2.0/24"},
		{"blanks without commas", "DNS = 10.77.0.1 corp.example", "AllowedIPs = 10.0.0.0/8 192.0.2.0/24"},
		{"a comma too many", "DNS = ,10.77.0.1,, corp.example,", "AllowedIPs = 10.0.0.0/8, 192.0.2.0/24,"},
		{"tabs and trailing blanks", "\tDNS\t=\t10.77.0.1,\tcorp.example \t", "AllowedIPs =10.0.0.0/8\t,192.0.2.0/24\t "},
		{"blanks within a prefix and a name, as wg removes them", "D NS = 10.77.0.1, corp.example", "Allowed IPs = 10.0.0.0 / 8, 192.0.2.0/ 24"},
		{"comments behind values", "DNS = 10.77.0.1, corp.example# office", "AllowedIPs = 10.0.0.0/8,192.0.2.0/24 # both"},
		{"quotes", "DNS = \"10.77.0.1, corp.example\"", "AllowedIPs = '10.0.0.0/8, 192.0.2.0/24'"},
		{"comments of INI files", "; office\nDNS = 10.77.0.1, corp.example", "AllowedIPs = 10.0.0.0/8, 192.0.2.0/24"},
		{"the plus of wg set", "DNS = 10.77.0.1, corp.example", "AllowedIPs = +10.0.0.0/8, +192.0.2.0/24"},
		{"lines that end in a return alone", "DNS = 10.77.0.1, corp.example\r", "AllowedIPs = 10.0.0.0/8\rAllowedIPs = 192.0.2.0/24\r"},
	} {
		c, err := parse(row.iface, row.peer)
		if err != nil {
			t.Errorf("%s: %v", row.name, err)
			continue
		}
		if got := fmt.Sprint(c.Peers[0].AllowedIPs); got != all {
			t.Errorf("%s: AllowedIPs: got %s, want %s", row.name, got, all)
		}
		if got := fmt.Sprint(c.DNS, c.SearchDomains); got != "[10.77.0.1] [corp.example]" {
			t.Errorf("%s: DNS: got %s", row.name, got)
		}
	}
	text := "\xff\xfe"
	for _, c := range "[ Interface ]\r\nPrivateKey = " + testPrivateKey + "\r\nAddress = 10.77.0.2\r\n[Peer]\r\nPublicKey = " + testPublicKey +
		"\r\nEndpoint = vpn.example:51820\r\nAllowedIPs = 0.0.0.0/0\r\n" {
		text += string([]byte{byte(c), 0})
	}
	if c, err := ParseConfig(strings.NewReader(text), "x.conf"); err != nil || len(c.Peers) != 1 {
		t.Errorf("UTF-16 as PowerShell writes it: got %+v, %v", c, err)
	}
	if _, err := parse("", "AllowedIPs = 10.0.0.0/8, -192.0.2.0/24"); err == nil || !strings.Contains(err.Error(), `x.conf:8: AllowedIPs: "-192.0.2.0/24"`) {
		t.Errorf("a network that is taken away: got %v, want it refused with its line", err)
	}
}

// TestParseErrors reads the files in testdata/bad. What is said of each stands beside it, in a .txt of the same name.
func TestParseErrors(t *testing.T) {
	files := must(filepath.Glob("testdata/bad/*.conf"))
	if len(files) == 0 {
		t.Fatal("no files in testdata/bad")
	}
	for _, file := range files {
		name := filepath.Base(file)
		t.Run(name, func(t *testing.T) {
			f := must(os.Open(file))
			defer f.Close()
			_, err := ParseConfig(f, name)
			if err == nil {
				t.Fatal("got no error")
			}
			golden := strings.TrimSuffix(file, ".conf") + ".txt"
			want := must(os.ReadFile(golden))
			if got := err.Error() + "\n"; got != string(want) {
				t.Errorf("got:\n%s\nwant, from %s:\n%s", got, golden, want)
			}
		})
	}
}

func TestParseErrorNamesThePlace(t *testing.T) {
	_, err := ParseConfig(strings.NewReader("[Interface]\nMTU = big\n"), "corp.conf")
	var syntax *SyntaxError
	if !errors.As(err, &syntax) {
		t.Fatalf("got %v, want a SyntaxError", err)
	}
	if syntax.File != "corp.conf" || syntax.Line != 1 {
		t.Errorf("got %s:%d, want corp.conf:1, where the first is missing", syntax.File, syntax.Line)
	}
}

func TestParseBounds(t *testing.T) {
	t.Run("a file of rubbish is not reported line by line", func(t *testing.T) {
		_, err := ParseConfig(strings.NewReader("[Interface]\n"+strings.Repeat("rubbish\n", 1000)), "x.conf")
		if got := strings.Count(err.Error(), "x.conf:"); got > maxErrors+3 {
			t.Errorf("got %d errors, want about %d", got, maxErrors)
		}
	})
	t.Run("a line may be as long as the file", func(t *testing.T) {
		for _, n := range []int{5_000, 200_000} { // 70 KiB, and more than 1 MiB
			var allowed []string
			for i := range n {
				allowed = append(allowed, netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)}).String()+"/32")
			}
			text := "[Interface]\nPrivateKey = " + testPrivateKey + "\nAddress = 10.77.0.2\n[Peer]\nPublicKey = " + testPublicKey +
				"\nEndpoint = vpn.example:51820\nAllowedIPs = " + strings.Join(allowed, ", ") + "\nAllowedIPs = 192.0.2.0/24\n"
			c, err := ParseConfig(strings.NewReader(text), "x.conf")
			if err != nil {
				t.Fatal(err)
			}
			if got := len(c.Peers[0].AllowedIPs); got != n+1 {
				t.Errorf("got %d prefixes of a line of %d and one more, want all", got, n)
			}
		}
	})
	t.Run("a file that is too large is refused, not cut", func(t *testing.T) {
		_, err := ParseConfig(strings.NewReader("[Interface]\nDNS = "+strings.Repeat("x", maxFile)), "x.conf")
		if err == nil || !strings.Contains(err.Error(), "x.conf:1: file is larger than 4 MiB") {
			t.Errorf("got %v, want a file that is too large", err)
		}
	})
	t.Run("what cannot be read is the reader's error", func(t *testing.T) {
		want := errors.New("disk gone")
		if _, err := ParseConfig(iotest.ErrReader(want), "x.conf"); !errors.Is(err, want) {
			t.Errorf("got %v, want %v", err, want)
		}
	})
}

func TestNoSecretInErrors(t *testing.T) {
	const half = "yAnz5TF+lXXJte14tji3"
	for _, line := range []string{
		"PrivateKey = " + testPrivateKey + "x",
		"PrivatKey = " + testPrivateKey,
		"PrivateKey " + testPrivateKey,
		"PrivateKey =\n" + testPrivateKey,
		testPrivateKey,
		"Post Up = curl -u me:" + testPrivateKey,
		"MTU = big # " + testPrivateKey,
		"[" + testPrivateKey + "]",
		"[Peer]\nPresharedKey = " + testPrivateKey + "x",
		"[Peer]\nPrivateKey = " + testPrivateKey,
	} {
		_, err := ParseConfig(strings.NewReader("[Interface]\n"+line), "x.conf")
		if err == nil {
			t.Errorf("%q: got no error", line)
			continue
		}
		if strings.Contains(err.Error(), half) {
			t.Errorf("%q: got %q, with the key in it", line, err)
		}
	}
}

func FuzzParseConfig(f *testing.F) {
	for _, file := range must(filepath.Glob("testdata/bad/*.conf")) {
		f.Add(must(os.ReadFile(file)))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		c, err := ParseConfig(strings.NewReader(string(b)), "fuzz.conf")
		if err != nil {
			for _, line := range strings.Split(err.Error(), "\n") {
				if !strings.HasPrefix(line, "fuzz.conf:") && !strings.HasPrefix(line, "\t") {
					t.Errorf("error line %q has no place", line)
				}
			}
			return
		}
		var text strings.Builder
		if _, err := c.WriteTo(&text); err != nil {
			t.Fatal(err)
		}
		again, err := ParseConfig(strings.NewReader(text.String()), "again.conf")
		if err != nil {
			t.Fatalf("what was written cannot be read: %v\n%s", err, text.String())
		}
		c.Warnings = nil
		if !reflect.DeepEqual(again, c) {
			t.Errorf("got  %+v\nwant %+v", again, c)
		}
	})
}
