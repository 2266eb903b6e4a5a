package e2e

import (
	"fmt"
	"io"
	"net"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/oauth2-proxy/mockoidc"

	"penstock/e2e/netlab"
)

// Rules for three groups, of which none is the gateway's own.
const reachRules = `rules:
  - {name: ops, match: {gateway: true, group: [admins], port: 8081}, do: direct}
  - {name: colleagues, match: {peers: true, group: [admins], port: 8081}, do: direct}
  - {name: admins, match: {cidr: [10.20.0.0/24, "fd20::/64", 169.254.0.0/16], group: [admins]}, do: direct}
  - {name: wiki, match: {domain: wiki.corp.example, group: [staff]}, do: direct}
  - {name: printing, match: {cidr: 10.20.0.66, port: 8080, group: [devices]}, do: direct}
  - {name: no-private, match: {cidr: [private, 169.254.0.0/16]}, do: block}
  - {name: rest, do: direct}
`

var groupsOf = regexp.MustCompile(`groups: \[\w+\]`)

// entrance is how a peer comes to the gateway.
type entrance struct {
	peer string
	// curl fetches a URL by IPv4. Args are more flags.
	curl func(t *testing.T, url string, args ...string) result
}

// laptop: curl [pen0 -> penstock] === WireGuard ===> [penstock, as nobody; sign_in] gateway --- intranet: wiki, vault
//
//	access: curl, wireguard-go === WireGuard ===^                       \--- internet --- login.example
//	access: curl --- SOCKS5 --------------------^
func TestWhoReachesWhat(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.serveVault(t)
	w.serveMetadata(t)
	for _, h := range []*netlab.Host{w.Gateway, w.Access2} {
		for _, port := range []string{":8080", ":8081"} {
			serve(t, h, port, func(c *net.TCPConn) {
				_, _ = c.Read(make([]byte, 4096)) // the request, whatever it is
				_, _ = io.WriteString(c, "HTTP/1.0 200 OK\r\n\r\nthis is "+h.Name()+"\n")
			})
		}
	}
	l := w.serveLogin(t)
	ways := w.threeWays(t, l)
	rows := []struct {
		sentence string
		url      string
		args     []string
		want     string // in what is printed, if it is reached
		groups   string // who reach it
	}{
		{"the wiki by its name", "http://wiki.corp.example:8080/", nil, "wiki.corp.example:8080 at 10.20.0.10:8080", "admins staff"},
		{"the wiki by TLS", "https://wiki.corp.example:8443/", nil, "wiki.corp.example:8443 at 10.20.0.10:8443", "admins staff"},
		{"another name of the same host", "http://intranet.corp.example:8080/", nil, "at 10.20.0.10:8080", "admins"},
		{"the vault", "http://10.20.0.66:8080/", nil, "at 10.20.0.66:8080", "admins devices"},
		{"another port of the vault", "http://10.20.0.66:5080/", nil, "at 10.20.0.66:5080", "admins"},
		{"the vault by the wiki's name", "https://wiki.corp.example:8443/", []string{"--connect-to", "::10.20.0.66:"}, "at 10.20.0.66:8443", "admins"},
		{"the vault by the wiki's name in a head", "http://10.20.0.66:5080/", []string{"-H", "Host: WIKI.corp.example:80"}, "at 10.20.0.66:5080", "admins"},
		{"the internet", "https://public.example/", nil, "this is public.example", "admins staff devices"},
		{"a service of the gateway that a rule opens", "http://10.20.0.1:8081/", nil, "this is gateway", "admins"},
		{"one that none opens", "http://10.20.0.1:8080/", nil, "this is gateway", ""},
		{"a cloud's metadata", "http://169.254.169.254:8080/", nil, "at 169.254.169.254:8080", ""},
		{"a service of another peer that a rule opens", "http://10.99.0.9:8081/", nil, "this is access2", "admins"},
		{"one that none opens, of that peer", "http://10.99.0.9:8080/", nil, "this is access2", ""},
	}
	seen := make(map[string]bool) // groups of rows that somebody has reached
	for _, group := range []string{"admins", "staff", "devices"} {
		for _, y := range ways {
			w.write(t, "peers.d/"+y.peer+".yaml", groupsOf.ReplaceAllString(w.read(t, "peers.d/"+y.peer+".yaml"), "groups: ["+group+"]"))
		}
		w.gateway.must(t, "reload")
		for _, signedIn := range []bool{false, true} {
			for _, y := range ways {
				if signedIn {
					w.signInBy(t, l, y)
				}
				for _, row := range rows {
					may := slices.Contains(strings.Fields(row.groups), group) && (signedIn || group == "devices")
					t.Run(fmt.Sprintf("%s by %s, signed in: %v: %s", group, y.peer, signedIn, row.sentence), func(t *testing.T) {
						r := y.curl(t, row.url, row.args...)
						if got := r.code == 0 && strings.Contains(r.stdout, row.want); got != may {
							t.Errorf("got %s, want it reached: %v", r, may)
						} else if got {
							seen[row.sentence] = true
						}
					})
				}
			}
		}
		for _, y := range ways {
			w.gateway.must(t, "peer", "sign-out", y.peer)
		}
	}
	for _, row := range rows {
		if row.groups != "" && !seen[row.sentence] {
			t.Errorf("nobody has reached %s", row.sentence)
		}
	}
	w.nothingInClear(t)
}

// serveMetadata gives the intranet's host the address of a cloud's metadata service, and the gateway the way there.
func (w *world) serveMetadata(t *testing.T) {
	t.Helper()
	if err := w.Intranet.AddAddr("intra", prefix("169.254.169.254/16")); err != nil {
		t.Fatal(err)
	}
	if err := w.Gateway.AddRoute(netlab.Route{Dst: prefix("169.254.0.0/16"), Link: "intra"}); err != nil {
		t.Fatal(err)
	}
	if r := run(t, w.Gateway, program(t, "curl"), "-sS", "--noproxy", "*", "http://169.254.169.254:8080/"); !strings.Contains(r.stdout, "at 169.254.169.254:8080") {
		t.Fatalf("the metadata service from the gateway itself: got %s", r)
	}
}

// signInBy signs ana in with a peer, as a browser does that comes by its way.
func (w *world) signInBy(t *testing.T, l *login, y entrance) {
	t.Helper()
	l.QueueUser(&mockoidc.MockUser{Subject: "1", Email: "ana@corp.example", EmailVerified: true})
	jar := w.path(y.peer + ".cookies")
	if r := y.curl(t, "http://"+gatewayInner4+"/begin", "-L", "-b", jar, "-c", jar); !strings.Contains(r.stdout, "ana@corp.example has signed in with "+y.peer) {
		t.Fatalf("signing in with %s: got %s", y.peer, r)
	}
}

// threeWays starts a gateway as nobody that demands sign-in of admins and staff, and what its peers come with: three ways, and a
// peer that the others may try to reach.
func (w *world) threeWays(t *testing.T, l *login) []entrance {
	t.Helper()
	w.demandSignIn(t, l)
	w.edit(t, "gateway.yaml", "required: [staff]", "required: [admins, staff]")
	w.edit(t, "gateway.yaml", "listen:\n", "listen:\n  proxy: {address: \""+proxyAt+"\"}\n")
	w.edit(t, "gateway.yaml", rulesOf(t, w, "gateway.yaml"), reachRules)
	text := w.read(t, "gateway.yaml")
	i, j := strings.Index(text, "peers:\n"), strings.Index(text, "sign_in:\n")
	w.write(t, "gateway.yaml", text[:i]+text[j:])
	if err := os.Mkdir(w.path("peers.d"), 0o700); err != nil {
		t.Fatal(err)
	}
	key, public := keyPair(t)
	otherKey, other := keyPair(t)
	for name, entry := range map[string]string{
		"laptop": "public_key: " + w.fill.Replace("LAPTOP_PUBLIC") + ", allowed_ips: [10.99.0.2/32, \"fd99::2/128\"]",
		"stock":  "public_key: " + public + ", allowed_ips: 10.99.0.3/32",
		"other":  "public_key: " + other + ", allowed_ips: 10.99.0.9/32",
		"socks":  "proxy_password: {file: ../socks.password}",
	} {
		w.write(t, "peers.d/"+name+".yaml", fmt.Sprintf("peers: [{name: %s, %s, groups: [devices]}]\n", name, entry))
	}
	w.write(t, "socks.password", "secret-of-socks\n")
	for name, own := range map[string][2]string{"stock": {key, "10.99.0.3/32"}, "other": {otherKey, "10.99.0.9/32"}} {
		w.write(t, name+".conf", strings.NewReplacer(w.fill.Replace("PrivateKey = LAPTOP_KEY"), "PrivateKey = "+own[0],
			"Address = 10.99.0.2/32, fd99::2/128", "Address = "+own[1]).Replace(w.read(t, "corp.conf"))+"PersistentKeepalive = 1\n")
	}
	w.watch(t)
	nobody := w.asNobody(t, "client.key", "socks.password", "peers.d/laptop.yaml", "peers.d/stock.yaml", "peers.d/other.yaml", "peers.d/socks.yaml")
	w.edit(t, "as-nobody", "exec ", "export SSL_CERT_FILE="+netlab.CAFile+"\nexec ") // the provider's certificate is the lab's
	w.gateway = startProgram(t, w.Gateway, w.path("gateway.yaml"), nobody)
	w.laptop = start(t, w.Laptop, w.path("laptop.yaml"))
	stock(t, w.Access, w.path("stock.conf"), "10.99.0.0/24", "10.20.0.0/24", publicIPv4+"/32", loginIPv4+"/32", "169.254.169.254/32")
	stock(t, w.Access2, w.path("other.conf"), "10.99.0.0/24")
	w.connected(t)
	curl := program(t, "curl")
	flags := []string{"-4", "-sS", "--max-time", "15", "--noproxy", "", "--cacert", netlab.CAFile}
	return []entrance{
		{"laptop", func(t *testing.T, url string, args ...string) result {
			return run(t, w.Laptop, curl, slices.Concat(flags, args, []string{url})...)
		}},
		{"stock", func(t *testing.T, url string, args ...string) result {
			names := run(t, w.Access, program(t, "dig"), "+noall", "+answer", "+tries=2", "+timeout=5", "@"+gatewayInner4,
				"wiki.corp.example", "A", "intranet.corp.example", "A", "public.example", "A", loginSite, "A")
			for line := range strings.Lines(names.stdout) {
				f := strings.Fields(line)
				if len(f) != 5 {
					continue
				}
				for _, port := range []string{"80", "443", "8080", "8443"} {
					args = append(args, "--resolve", strings.TrimSuffix(f[0], ".")+":"+port+":"+f[4])
				}
			}
			return run(t, w.Access, curl, slices.Concat(flags, args, []string{url})...)
		}},
		{"socks", func(t *testing.T, url string, args ...string) result {
			return run(t, w.Access, curl, slices.Concat(flags, args, []string{"-x", through("socks5h", "socks"), url})...)
		}},
	}
}
