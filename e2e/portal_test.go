package e2e

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"

	"penstock/e2e/netlab"
)

// hostileAccess is an access router that answers in place of other servers, and notes what it is sent.
type hostileAccess struct {
	mu       sync.Mutex // guards below
	location string     // where probes are redirected to
	got      []string   // requests that are not probes: host, path and cookies
}

func (a *hostileAccess) ServeHTTP(rw http.ResponseWriter, r *http.Request) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if r.Host == "probe.example" {
		http.Redirect(rw, r, a.location, http.StatusFound)
		return
	}
	a.got = append(a.got, fmt.Sprintf("%s%s cookies %v", r.Host, r.URL.Path, r.Header["Cookie"]))
	fmt.Fprintf(rw, "sign in at %s\n", r.Host)
}

func (a *hostileAccess) requests() []string {
	a.mu.Lock()
	defer a.mu.Unlock()
	return slices.Clone(a.got)
}

// laptop [pen0 -> penstock] lan0 --- [web and DNS that say they are everybody] access --- internet --- gateway, which is down
func TestACaptivePortalOpensNothingOfTheIntranet(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		sentence, location string
		opens              bool
	}{
		{"a portal on the access network is reached", "http://portal.example/login", true},
		{"the intranet's host by its name is not", "http://intranet.corp.example/", false},
		{"a name of the intranet that does not exist is not", "http://portal.corp.example/", false},
		{"the intranet's host by its address is not", "http://10.20.0.10/", false},
	} {
		t.Run(row.sentence, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			w.write(t, "laptop.yaml", w.fill.Replace(`profile: corp.conf
intranet: [corp.example]
listen:
  tun: {name: pen0, state_file: DIR/host.json}
captive_portal: {probe: ["http://probe.example/generate_204"], window: 10m}
`))
			access := &hostileAccess{location: row.location}
			if err := w.Access.AddAddr("lan", prefix("10.20.0.10/32")); err != nil {
				t.Fatal(err)
			}
			for _, name := range []string{"probe.example", "portal.example", "intranet.corp.example", "portal.corp.example"} {
				if err := w.AccessDNS.Add(name + ". 60 IN A " + netlab.AccessIPv4); err != nil {
					t.Fatal(err)
				}
			}
			l, err := w.Access.Listen(t.Context(), "tcp", ":80")
			if err != nil {
				t.Fatal(err)
			}
			srv := &http.Server{Handler: access}
			go srv.Serve(l) // ends with its listener
			t.Cleanup(func() { srv.Close() })

			w.laptop = start(t, w.Laptop, w.path("laptop.yaml"))
			eventually(t, "the laptop has met the portal", func() error {
				if !strings.Contains(w.laptop.said.String(), "captive portal") {
					return fmt.Errorf("it said:\n%s", w.laptop.said.String())
				}
				return nil
			})
			visit := run(t, w.Laptop, program(t, "curl"), "-sS", "-4", "--max-time", "1", "-H", "Cookie: session=secret", row.location)
			if row.opens { // what opens a portal opens nothing else
				run(t, w.Laptop, program(t, "curl"), "-sS", "--max-time", "1", "-H", "Cookie: session=secret", "http://intranet.corp.example/")
			}
			if row.opens {
				if visit.code != 0 || !strings.Contains(visit.stdout, "sign in at portal.example") {
					t.Errorf("the portal: got %s, want its page", visit)
				}
			} else if visit.code == 0 {
				t.Errorf("got %s, want it unreachable", visit)
			}
			for _, request := range access.requests() {
				if !row.opens || !strings.HasPrefix(request, "portal.example/") {
					t.Errorf("the access router was sent: %s", request)
				}
			}
			for _, q := range w.AccessDNS.Queries() {
				if strings.HasSuffix(q.Name, "corp.example") {
					t.Errorf("the access network's resolver was asked for %s", q.Name)
				}
			}
		})
	}
}
