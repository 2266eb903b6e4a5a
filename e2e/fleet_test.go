package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
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
	store    []string // the arguments that name it
	last     int      // generation of the newest bundle
}

// fleetPatience is patience for what goes through a cluster of NATS, which elects its leaders first.
const fleetPatience = 4 * patience

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

// newFleet makes the keys and files of some gateways on a store, which is a folder without NATS, and publishes the first bundle.
func newFleet(t *testing.T, gateways int, nats ...string) *fleetOf {
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
	f.store = []string{"--dir=" + f.path("store")}
	if len(nats) > 0 {
		store = fmt.Sprintf("{nats: {servers: [%s]}}", strings.Join(nats, ", "))
		f.store = []string{"--nats=" + strings.Join(nats, ",")}
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
	f.fleet(t, append([]string{"publish", file}, f.store...)...)
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
	eventuallyWithin(t, fleetPatience, fmt.Sprintf("all gateways are %s at generation %d", state, generation), func() error {
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

// sessions returns how many peers have a session with a gateway, as the gateway tells the others.
func (f *fleetOf) sessions(t *testing.T, i int) int {
	t.Helper()
	for _, m := range f.gateways[i].members(t) {
		if m.Name == fmt.Sprintf("gw%d", i+1) {
			return m.Peers
		}
	}
	return 0
}

// until waits until a gateway has told of a number of sessions.
func (f *fleetOf) until(t *testing.T, i, want int) {
	t.Helper()
	eventuallyWithin(t, fleetPatience, fmt.Sprintf("gateway %d has sessions: %d", i+1, want), func() error {
		if n := f.sessions(t, i); n != want {
			return fmt.Errorf("it has %d", n)
		}
		return nil
	})
}

// only waits until one of two gateways has a session, and returns which.
func (f *fleetOf) only(t *testing.T) (gateway int) {
	t.Helper()
	eventuallyWithin(t, fleetPatience, "one gateway has the session", func() error {
		first, second := f.sessions(t, 0), f.sessions(t, 1)
		if first+second != 1 {
			return fmt.Errorf("gateway 1 has %d sessions and gateway 2 has %d", first, second)
		}
		gateway = second
		return nil
	})
	return gateway
}

// peersOf waits until a gateway has a number of peers.
func (f *fleetOf) peersOf(t *testing.T, i, want int) {
	t.Helper()
	eventuallyWithin(t, fleetPatience, fmt.Sprintf("gateway %d has peers: %d", i+1, want), func() error {
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

// requestTime is how long a client waits for an answer before it asks once more.
const requestTime = 3 * time.Second

// requests asks the intranet again and again, and notes how long no request was answered.
type requests struct {
	stop, over chan struct{}

	mu     sync.Mutex // guards below
	ok     int        // requests that were answered
	failed int        // requests that were not, and that were not either when they were repeated once
	last   time.Time
	gap    time.Duration // the longest without an answer
}

// ask begins to ask, and returns when some requests have been answered.
func (f *fleetOf) ask(t *testing.T) *requests {
	t.Helper()
	r := &requests{stop: make(chan struct{}), over: make(chan struct{}), last: time.Now()}
	go func() {
		defer close(r.over)
		for {
			select {
			case <-r.stop:
				return
			case <-time.After(20 * time.Millisecond):
			}
			err := f.carriesOnce(requestTime)
			if err != nil {
				err = f.carriesOnce(requestTime)
			}
			r.note(err == nil)
		}
	}()
	t.Cleanup(func() { r.end() })
	r.answered(t, 5)
	return r
}

func (r *requests) note(ok bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !ok {
		r.failed++
		return
	}
	r.ok++
	r.gap = max(r.gap, time.Since(r.last))
	r.last = time.Now()
}

// answered waits until some more requests have been answered.
func (r *requests) answered(t *testing.T, more int) {
	t.Helper()
	before, _, _ := r.count()
	eventuallyWithin(t, fleetPatience, "requests are answered", func() error {
		if now, failed, _ := r.count(); now < before+more {
			return fmt.Errorf("answered %d, not answered %d", now, failed)
		}
		return nil
	})
}

func (r *requests) count() (ok, failed int, gap time.Duration) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.ok, r.failed, r.gap
}

// end ends the requests.
func (r *requests) end() (failed int, gap time.Duration) {
	select {
	case <-r.stop:
	default:
		close(r.stop)
	}
	<-r.over
	_, failed, gap = r.count()
	return failed, gap
}

// natsAddress is where the nodes of NATS listen, from port 4221 on.
const natsAddress = "203.0.113.10"

// natsURLs are those of a cluster of three.
func natsURLs() []string {
	var urls []string
	for node := 1; node <= 3; node++ {
		urls = append(urls, fmt.Sprintf("nats://%s:%d", natsAddress, 4220+node))
	}
	return urls
}

// natsCluster starts a cluster of three NATS servers on the internet's host, with their data below a folder. Stop kills them.
func natsCluster(t *testing.T, f *netlab.Lab, dir string) (stop func()) {
	t.Helper()
	var nodes []*netlab.Cmd
	said := new(transcript)
	stop = func() {
		for _, cmd := range nodes {
			_ = cmd.Process.Kill()
			_ = cmd.Wait()
		}
		nodes = nil
	}
	t.Cleanup(func() {
		stop()
		if t.Failed() {
			t.Logf("NATS said:\n%s", said)
		}
	})
	for node := 1; node <= 3; node++ {
		cmd := f.Internet.Command(context.WithoutCancel(t.Context()), built("nats-server"), "-a", natsAddress, "-p", fmt.Sprint(4220+node), "-n", fmt.Sprintf("node%d", node),
			"-js", "-sd", filepath.Join(dir, fmt.Sprint(node)), "-cluster_name", "lab", "-cluster", fmt.Sprintf("nats://%s:%d", natsAddress, 6220+node),
			"-routes", fmt.Sprintf("nats://%[1]s:6221,nats://%[1]s:6222,nats://%[1]s:6223", natsAddress))
		cmd.Stdout, cmd.Stderr = said, said
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		nodes = append(nodes, cmd)
	}
	eventuallyWithin(t, fleetPatience, "the cluster has a leader", func() error {
		if text := said.String(); !strings.Contains(text, "JetStream cluster new metadata leader") {
			return errors.New("it has none")
		}
		return nil
	})
	return stop
}

// laptop: wireguard-go === WireGuard ===> gateway 1, killed
//
//	gateway 2 --- intranet
func TestAStockClientFollowsTheFleet(t *testing.T) {
	t.Parallel()
	f := newFleet(t, 2)
	f.publish(t)
	f.up(t)
	stock(t, f.Laptop, f.path("corp.conf"), "10.20.0.0/24")
	f.untilCarrying(t)
	f.peersOf(t, 0, 1)
	eventuallyWithin(t, fleetPatience, "the other gateway knows where the peer is", func() error {
		for _, m := range f.gateways[1].members(t) {
			if m.Name == "gw1" && m.Peers == 1 {
				return nil
			}
		}
		return fmt.Errorf("gateway 2 sees %v", f.gateways[1].members(t))
	})
	r := f.ask(t)
	f.gateways[0].kill(t)
	r.answered(t, 5)
	f.peersOf(t, 1, 1)
	failed, gap := r.end()
	t.Logf("the longest time without an answer: %v; requests that failed twice: %d", gap, failed)
	if gap > 12*time.Second {
		t.Errorf("no answer for %v: a stock client needs 15 s without help", gap)
	}
	// The one that comes back leaves the peer where it is.
	f.gateways[0].start(t)
	f.untilAll(t, "serving", 1)
	f.peersOf(t, 1, 1)
	r = f.ask(t)
	f.gateways[1].must(t, "drain", "--for", "20s")
	f.peersOf(t, 0, 1)
	r.answered(t, 5)
	if failed, gap := r.end(); failed > 0 {
		t.Errorf("while a gateway was drained, requests that failed twice: %d; the longest time without an answer: %v", failed, gap)
	} else {
		t.Logf("while a gateway was drained, the longest time without an answer: %v", gap)
	}
}

// laptop: penstock === WireGuard ===> gateway 1, killed
//
//	gateway 2 --- intranet
func TestOurClientFollowsTheFleet(t *testing.T) {
	t.Parallel()
	f := newFleet(t, 2)
	f.publish(t)
	f.up(t)
	f.edit(t, "corp.conf", "Endpoint = 198.51.100.10:51820", "Endpoint = 198.51.100.10:51820\nEndpoint = "+f.outer[1]+":51820")
	f.laptop = start(t, f.Laptop, f.path("laptop.yaml"))
	f.connected(t)
	f.untilCarrying(t)
	var gaps []time.Duration
	for round := range 4 {
		here := f.only(t)
		r := f.ask(t)
		f.gateways[here].kill(t)
		r.answered(t, 5)
		_, gap := r.end()
		gaps = append(gaps, gap)
		if gap > 10*time.Second {
			t.Errorf("round %d: no answer for %v", round, gap)
		}
		f.gateways[here].start(t)
		f.untilAll(t, "serving", 1)
		f.until(t, 1-here, 1)
	}
	t.Logf("the longest times without an answer: %v", gaps)
}

// TestTheTruthIsInTheBundlesAndNotInTheEngine wipes the engine, gives it old bundles and bundles of strangers, and fills it again from a
// gateway.
func TestTheTruthIsInTheBundlesAndNotInTheEngine(t *testing.T) {
	t.Parallel()
	f := newFleet(t, 2, natsURLs()...)
	data := f.path("engine")
	stop := natsCluster(t, f.Lab, data)
	f.publish(t)
	f.up(t)
	stock(t, f.Laptop, f.path("corp.conf"), "10.20.0.0/24")
	f.untilCarrying(t)

	// A second bundle: another peer, and a site that is blocked.
	_, colleague := keyPair(t)
	f.write(t, "site/peers.yaml", "peers: [{name: colleague, public_key: "+colleague+", allowed_ips: [10.99.0.9/32], groups: [staff]}]\n")
	f.publish(t)
	f.untilAll(t, "serving", 2)

	// A bundle whose own tests fail is put in force nowhere, and everybody sees why.
	f.write(t, "site/wrong.yaml", "tests: [{from: laptop, to: \"tcp://10.20.0.10:80\", expect: block}]\n")
	third := f.path("3.bundle")
	f.fleet(t, "sign", f.path("site"), "--key", f.path("operator.key"), "--generation", "3", "-o", third)
	f.fleet(t, append([]string{"publish", third}, f.store...)...)
	eventuallyWithin(t, fleetPatience, "the third bundle is refused", func() error {
		for _, m := range f.gateways[0].members(t) {
			if m.Refused != 3 || m.Generation != 2 || !strings.Contains(m.Fault, "10.20.0.10") {
				return fmt.Errorf("gateway 1 sees %+v", m)
			}
		}
		return nil
	})
	if err := os.Remove(f.path("site/wrong.yaml")); err != nil {
		t.Fatal(err)
	}
	f.last = 3
	f.publish(t)
	f.untilAll(t, "serving", 4)

	// All nodes of the engine are killed, and everything that they had is gone. Nothing changes but that gateways cannot be told.
	stop()
	if err := os.RemoveAll(data); err != nil {
		t.Fatal(err)
	}
	f.untilCarrying(t)
	for i, p := range f.gateways {
		eventuallyWithin(t, fleetPatience, "the gateway says that the engine is gone", func() error {
			var status struct {
				Fleet struct {
					Connected  bool
					Generation int
				}
				Restart []string
			}
			r := p.cli(t, "status", "--json")
			if err := json.Unmarshal([]byte(r.stdout), &status); err != nil || status.Fleet.Connected || status.Fleet.Generation != 4 || len(status.Restart) > 0 {
				return fmt.Errorf("status: %s", r)
			}
			return nil
		})
		// A restart without the engine: from the bundle on the disk.
		if i == 1 {
			p.kill(t)
			p.start(t)
		}
	}
	f.untilCarrying(t)

	// An empty engine says nothing about peers. An old bundle and one of a stranger are refused; any gateway can fill it.
	natsCluster(t, f.Lab, data)
	f.untilAll(t, "serving", 4)
	f.fleet(t, append([]string{"publish", f.path("1.bundle")}, f.store...)...)
	eventuallyWithin(t, fleetPatience, "the old bundle is refused", func() error {
		for _, m := range f.gateways[0].members(t) {
			if m.Refused != 1 || m.Generation != 4 {
				return fmt.Errorf("gateway 1 sees %+v", m)
			}
		}
		return nil
	})
	f.fleet(t, "seed", "-c", f.path("gw1.yaml"))
	eventuallyWithin(t, fleetPatience, "the store has the bundle in force", func() error {
		for _, m := range f.gateways[0].members(t) {
			if m.Refused != 0 || m.Generation != 4 {
				return fmt.Errorf("gateway 1 sees %+v", m)
			}
		}
		return nil
	})
	stranger := f.fleet(t, "keygen", "operator", f.path("stranger.key"))
	f.edit(t, "site/site.yaml", "signers: [", "signers: [\""+stranger+"\", ")
	f.fleet(t, "sign", f.path("site"), "--key", f.path("stranger.key"), "--generation", "5", "-o", f.path("5.bundle"))
	f.fleet(t, append([]string{"publish", f.path("5.bundle")}, f.store...)...)
	eventuallyWithin(t, fleetPatience, "the stranger's bundle is refused", func() error {
		for _, m := range f.gateways[0].members(t) {
			if m.Refused != 5 || m.Generation != 4 {
				return fmt.Errorf("gateway 1 sees %+v", m)
			}
		}
		return nil
	})
	f.untilCarrying(t)
}

// TestPeersChangeBetweenBundles adds and removes peers while nobody makes a bundle.
func TestPeersChangeBetweenBundles(t *testing.T) {
	t.Parallel()
	f := newFleet(t, 2)
	f.publish(t)
	f.up(t)
	known := func(want int) {
		t.Helper()
		for i, p := range f.gateways {
			eventuallyWithin(t, fleetPatience, fmt.Sprintf("gateway %d knows peers: %d", i+1, want), func() error {
				var status struct{ Peers struct{ Active, Idle int } }
				if r := p.cli(t, "status", "--json"); json.Unmarshal([]byte(r.stdout), &status) != nil {
					return fmt.Errorf("status: %s", r)
				}
				if n := status.Peers.Active + status.Peers.Idle; n != want {
					return fmt.Errorf("it knows %d", n)
				}
				return nil
			})
		}
	}
	change := func(args ...string) result {
		args = append(append([]string{"fleet", "peer"}, args...), f.path("site"), "--key", f.path("operator.key"))
		return run(t, f.Internet, built("penstock"), append(args, f.store...)...)
	}
	known(1)

	// Two operators at once, who do not know of each other: each peer has an address of its own.
	var wg sync.WaitGroup
	added := make([]result, 4)
	for i := range added {
		wg.Go(func() {
			added[i] = change("add", fmt.Sprintf("peer%d", i), "--group", "staff", "-o", f.path(fmt.Sprintf("peer%d.conf", i)))
		})
	}
	wg.Wait()
	addresses := make(map[string]bool)
	for i, r := range added {
		if r.code != 0 {
			t.Fatalf("fleet peer add: %s", r)
		}
		addresses[values(f.read(t, fmt.Sprintf("peer%d.conf", i)), "Address")[0]] = true
	}
	if len(addresses) != len(added) {
		t.Errorf("%d peers got the addresses %v, want one each", len(added), addresses)
	}
	known(5)
	if r := change("add", "peer0"); r.code == 0 || !strings.Contains(r.stderr, "peer0") {
		t.Errorf("adding a peer twice: %s", r)
	}

	// A peer that was added so connects, and is gone when it is removed.
	stock(t, f.Laptop, f.path("peer1.conf"), "10.20.0.0/24")
	f.untilCarrying(t)
	for _, p := range f.gateways { // what was changed is on the disk
		p.kill(t)
		p.start(t)
	}
	known(5)
	f.untilCarrying(t)
	if r := change("rm", "peer1"); r.code != 0 {
		t.Fatalf("fleet peer rm: %s", r)
	}
	known(4)
	if err := f.carriesOnce(time.Second); err == nil {
		t.Error("a peer that was removed is still carried")
	}

	// The next bundle has them all.
	f.publish(t)
	f.untilAll(t, "serving", 2)
	known(4)
}
