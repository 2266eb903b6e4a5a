package e2e

import (
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"penstock/e2e/netlab"
)

// fleetOf is a world with several gateways of one site instead of one gateway.
type fleetOf struct {
	*world
	hosts    []*netlab.Host
	outer    []string // their addresses
	gateways []*penstock
	store    string // the arguments that name it
	last     int    // generation of the newest bundle
}

// siteYAML is the part of a bundle about its site, and gatewayYAML the rest of it.
const siteYAML = `site:
  name: lab
  signers: ["OPERATOR"]
  gateways:
`

// memberYAML is a gateway's own file.
const memberYAML = `fleet:
  site: lab
  gateway: gwNUMBER
  key: {file: gwNUMBER.key}
  signers: ["OPERATOR"]
  endpoint: OUTER:51821
  drain_limit: 8s
  store: STORE
state_dir: DIR/stateNUMBER
metrics: {listen: "127.0.0.1:9477"}
`

// newFleet makes the keys and files of some gateways on a store, which is a folder if it is empty, and publishes the first bundle.
func newFleet(t *testing.T, gateways int, natsURL string) *fleetOf {
	t.Helper()
	f := &fleetOf{world: newWorld(t)}
	for i := range gateways {
		host, outer := f.Gateway, netlab.GatewayIPv4
		if i > 0 {
			more, err := f.AddGateway(t.Context(), i+1)
			if err != nil {
				t.Fatal(err)
			}
			host, outer = more.Host, more.IPv4
		}
		f.hosts, f.outer = append(f.hosts, host), append(f.outer, outer)
	}
	store := "{dir: DIR/store}"
	f.store = "--dir=" + f.path("store")
	if natsURL != "" {
		store = fmt.Sprintf("{nats: {servers: [%q], replicas: 1}}", natsURL)
		f.store = "--nats=" + natsURL
	}
	for _, dir := range []string{"store", "site", "site/secrets", "site/peers.d"} {
		if err := os.Mkdir(f.path(dir), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	operator := f.fleet(t, "keygen", "operator", f.path("operator.key"))
	text := strings.Replace(siteYAML, "OPERATOR", operator, 1)
	for i := range gateways {
		number := fmt.Sprint(i + 1)
		public := f.fleet(t, "keygen", "gateway", f.path("gw"+number+".key"))
		text += fmt.Sprintf("    - {name: gw%s, key: %s}\n", number, public)
		own := strings.NewReplacer("NUMBER", number, "OPERATOR", operator, "OUTER", f.outer[i], "STORE", store).Replace(memberYAML)
		f.write(t, "gw"+number+".yaml", strings.ReplaceAll(own, "DIR", f.dir))
	}
	f.write(t, "site/site.yaml", text)
	shared := strings.NewReplacer("{file: gateway.key}", "{file: secrets/site.key}", "include: peers.d/*.yaml\n", "", "metrics: {listen: \"127.0.0.1:9477\"}\n", "").
		Replace(f.read(t, "gateway.yaml"))
	f.write(t, "site/gateway.yaml", shared)
	f.write(t, "site/secrets/site.key", f.read(t, "gateway.key"))
	return f
}

// fleet runs penstock fleet, which must work, and returns what it printed.
func (f *fleetOf) fleet(t *testing.T, args ...string) string {
	t.Helper()
	r := run(t, f.Internet, built("penstock"), append([]string{"fleet"}, args...)...)
	if r.code != 0 {
		t.Fatalf("penstock fleet %s: %s", strings.Join(args, " "), r)
	}
	return strings.TrimSpace(r.stdout)
}

// publish signs and publishes what is in the folder of the site.
func (f *fleetOf) publish(t *testing.T) {
	t.Helper()
	f.last++
	file := f.path(fmt.Sprintf("%d.bundle", f.last))
	f.fleet(t, "sign", f.path("site"), "--key", f.path("operator.key"), "--generation", fmt.Sprint(f.last), "-o", file)
	f.fleet(t, "publish", file, f.store)
}

// up starts the gateways, and waits until all see all.
func (f *fleetOf) up(t *testing.T) {
	t.Helper()
	for i, h := range f.hosts {
		f.gateways = append(f.gateways, start(t, h, f.path(fmt.Sprintf("gw%d.yaml", i+1))))
	}
	f.untilAll(t, "serving", f.last)
}

// member is a gateway as another one's status shows it.
type member struct {
	Name       string
	State      string
	Generation int
	Refused    int
	Fault      string
	Peers      int
}

// members returns the gateways as one of them sees them.
func (p *penstock) members(t *testing.T) []member {
	t.Helper()
	var status struct {
		Fleet struct {
			Connected bool
			Gateways  []member
		}
	}
	if r := p.cli(t, "status", "--json"); json.Unmarshal([]byte(r.stdout), &status) != nil || !status.Fleet.Connected {
		return nil
	}
	return status.Fleet.Gateways
}

// untilAll waits until every gateway that runs sees all others in a state and at a generation.
func (f *fleetOf) untilAll(t *testing.T, state string, generation int) {
	t.Helper()
	eventually(t, fmt.Sprintf("all gateways are %s at generation %d", state, generation), func() error {
		for _, p := range f.gateways {
			all := p.members(t)
			if len(all) != len(f.gateways) {
				return fmt.Errorf("%s sees %v", p.host.Name(), all)
			}
			for _, m := range all {
				if m.State != state || m.Generation != generation {
					return fmt.Errorf("%s sees %+v", p.host.Name(), m)
				}
			}
		}
		return nil
	})
}

// peersOf waits until a gateway has a number of peers.
func (f *fleetOf) peersOf(t *testing.T, i, want int) {
	t.Helper()
	eventually(t, fmt.Sprintf("gateway %d has peers: %d", i+1, want), func() error {
		var status struct{ Peers struct{ Active int } }
		if r := f.gateways[i].cli(t, "status", "--json"); json.Unmarshal([]byte(r.stdout), &status) != nil {
			return fmt.Errorf("status: %s", r)
		}
		if status.Peers.Active != want {
			return fmt.Errorf("it has %d", status.Peers.Active)
		}
		return nil
	})
}

// requests asks the intranet again and again, and keeps when each request began and whether it was answered.
type requests struct {
	stop chan struct{}
	over chan struct{}
	all  []answered
}

type answered struct {
	at time.Duration
	ok bool
}

// ask begins to ask.
func (f *fleetOf) ask(t *testing.T) *requests {
	t.Helper()
	r := &requests{stop: make(chan struct{}), over: make(chan struct{})}
	began := time.Now()
	go func() {
		defer close(r.over)
		for {
			select {
			case <-r.stop:
				return
			case <-time.After(50 * time.Millisecond):
			}
			at := time.Since(began)
			r.all = append(r.all, answered{at, f.carriesOnce(300*time.Millisecond) == nil})
		}
	}()
	return r
}

// end ends the requests, and returns the longest time without an answer.
func (r *requests) end() (outage time.Duration) {
	close(r.stop)
	<-r.over
	var last time.Duration
	for _, one := range r.all {
		if one.ok {
			outage, last = max(outage, one.at-last), one.at
		}
	}
	return outage
}

// natsServer starts a NATS server with JetStream on the internet's host.
func natsServer(t *testing.T, f *netlab.Lab, dir string) (url string, stop func()) {
	t.Helper()
	const address = "203.0.113.10"
	cmd := f.Internet.Command(t.Context(), built("nats-server"), "-a", address, "-p", "4222", "-js", "-sd", dir)
	said := new(transcript)
	cmd.Stdout, cmd.Stderr = said, said
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	stopped := false
	stop = func() {
		if !stopped {
			stopped = true
			_ = cmd.Process.Kill()
			_ = cmd.Wait()
		}
	}
	t.Cleanup(stop)
	eventually(t, "NATS answers", func() error {
		c, err := f.Internet.DialContext(t.Context(), "tcp", address+":4222")
		if err == nil {
			c.Close()
		}
		return err
	})
	return "nats://" + address + ":4222", stop
}


// laptop: wireguard-go === WireGuard ===> gateway 1, killed
//
//	gateway 2 --- intranet
func TestAStockClientFollowsTheFleet(t *testing.T) {
	t.Parallel()
	f := newFleet(t, 2, "")
	f.publish(t)
	f.up(t)
	stock(t, f.Laptop, f.path("corp.conf"), "10.20.0.0/24")
	f.untilCarrying(t)
	f.peersOf(t, 0, 1)
	eventually(t, "the other gateway knows where the peer is", func() error {
		for _, m := range f.gateways[1].members(t) {
			if m.Name == "gw1" && m.Peers == 1 {
				return nil
			}
		}
		return fmt.Errorf("gateway 2 sees %v", f.gateways[1].members(t))
	})
	r := f.ask(t)
	f.gateways[0].kill(t)
	f.peersOf(t, 1, 1)
	f.untilCarrying(t)
	outage := r.end()
	t.Logf("the longest time without an answer: %v", outage)
	if outage > 12*time.Second {
		t.Errorf("no answer for %v: a stock client needs 15 s without help", outage)
	}
	// The one that comes back leaves the peer where it is.
	f.gateways[0].start(t)
	f.untilAll(t, "serving", 1)
	f.peersOf(t, 1, 1)
	f.gateways[1].must(t, "drain", "--for", "20s")
	f.peersOf(t, 0, 1)
	f.untilCarrying(t)
}
