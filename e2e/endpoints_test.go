package e2e

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"penstock/e2e/netlab"
)

// site is a world with two gateways that share one key and one table of peers. They are on one host: one is reached over IPv4, the
// other over IPv6.
type site struct {
	*world
	gateways  map[string]*penstock // by endpoint
	endpoints []string
}

// laptop: [penstock] === WireGuard ==+== [penstock] gateway ---------+-- intranet
//
//	+== [penstock] second gateway --+
func newSite(t *testing.T) *site {
	t.Helper()
	s := &site{world: newWorld(t), endpoints: []string{netlab.GatewayIPv4 + ":51820", "[" + netlab.GatewayIPv6 + "]:51821"}}
	s.edit(t, "corp.conf", "Endpoint = "+s.endpoints[0], "Endpoint = "+s.endpoints[0]+"\nEndpoint = "+s.endpoints[1])
	// By sockets: two gateways on one host would share its firewall.
	first := strings.NewReplacer("include:", "state_dir: state\ninclude:", "listen_port: 51820,", "listen_port: 51820, direct: sockets,").Replace(s.read(t, "gateway.yaml"))
	second := strings.NewReplacer("51820", "51821", "state_dir: state", "state_dir: state2", "127.0.0.1:9477", "127.0.0.1:9478").Replace(first)
	s.write(t, "gateway.yaml", first)
	s.write(t, "gateway2.yaml", second)
	s.gateways = map[string]*penstock{
		s.endpoints[0]: start(t, s.Gateway, s.path("gateway.yaml")),
		s.endpoints[1]: start(t, s.Gateway, s.path("gateway2.yaml")),
	}
	eventually(t, "the way over IPv6 is known to the routers on it", func() error { // a new neighbour takes seconds
		if r := run(t, s.Laptop, program(t, "ping"), "-6", "-n", "-c", "1", "-W", "1", netlab.GatewayIPv6); r.code != 0 {
			return fmt.Errorf("ping: %s", r)
		}
		return nil
	})
	s.world.laptop = start(t, s.Laptop, s.path("laptop.yaml"))
	s.connected(t)
	return s
}

// inUse returns the endpoint that the laptop uses.
func (s *site) inUse(t *testing.T) string {
	t.Helper()
	var status struct {
		Transports []struct {
			Endpoint       string
			OtherEndpoints int
		}
	}
	s.world.laptop.ask(t, &status, "status")
	if len(status.Transports) != 1 || !slices.Contains(s.endpoints, status.Transports[0].Endpoint) || status.Transports[0].OtherEndpoints != 1 {
		t.Fatalf("got the transports %+v, want one with one of the endpoints %v and one other", status.Transports, s.endpoints)
	}
	return status.Transports[0].Endpoint
}

// untilAnswered asks the intranet's web server each 100 ms, on a new connection, until one request is answered. It returns how long
// that took.
func (s *site) untilAnswered(t *testing.T) time.Duration {
	t.Helper()
	client := &http.Client{Transport: &http.Transport{DialContext: s.Laptop.DialContext, DisableKeepAlives: true}}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	answered := make(chan error, 1)
	var asking sync.WaitGroup
	defer asking.Wait()
	defer cancel()
	begun := time.Now()
	again := time.NewTicker(100 * time.Millisecond)
	defer again.Stop()
	for {
		asking.Go(func() {
			q, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+netlab.IntranetIPv4+"/client", nil)
			if err != nil {
				panic(err) // the URL is constant
			}
			r, err := client.Do(q)
			if err != nil {
				return // another one may be answered
			}
			defer r.Body.Close()
			if _, err := io.Copy(io.Discard, r.Body); err == nil {
				select {
				case answered <- nil:
				default:
				}
			}
		})
		select {
		case <-answered:
			return time.Since(begun)
		case <-ctx.Done():
			t.Fatalf("no request was answered: %v\n%s", ctx.Err(), s.world.laptop.cli(t, "status"))
		case <-again.C:
		}
	}
}

// TestALaptopMovesToTheOtherGateway ends one gateway after another: by SIGKILL, so that the host answers that the port is closed,
// and by SIGSTOP, so that packets vanish until it goes on.
func TestALaptopMovesToTheOtherGateway(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.untilAnswered(t)
	serve(t, s.Intranet, netlab.IntranetIPv4+":5001", func(c *net.TCPConn) {
		for {
			if _, err := c.Write(make([]byte, 1<<10)); err != nil {
				return
			}
			select {
			case <-t.Context().Done():
				return
			case <-time.After(50 * time.Millisecond):
			}
		}
	})
	var took []time.Duration
	for try := range 10 {
		flow := dial(t, s.Laptop, "tcp", netlab.IntranetIPv4+":5001")
		within(t, flow)
		if _, err := io.ReadFull(flow, make([]byte, 4<<10)); err != nil {
			t.Fatal(err)
		}
		s.untilAnswered(t)
		old := s.inUse(t)
		stops := try%2 == 1
		if stops {
			s.gateways[old].freeze(t)
		} else {
			s.gateways[old].kill(t)
		}
		d := s.untilAnswered(t)
		took = append(took, d)
		if d > 10*time.Second {
			t.Errorf("try %d: answered again after %v, want 10 s at most", try, d)
		}
		eventually(t, "the laptop says that it has moved", func() error {
			if got := s.inUse(t); got == old {
				return fmt.Errorf("it uses %s", got)
			}
			return nil
		})
		if try == 0 { // the new gateway answers what the laptop sends there
			within(t, flow)
			if _, err := io.Copy(io.Discard, flow); !errors.Is(err, syscall.ECONNRESET) {
				t.Errorf("try %d: a flow through the old gateway: got %v, want it reset", try, err)
			}
		}
		flow.Close()
		if stops {
			s.gateways[old].signal(t, "CONT")
		} else {
			s.gateways[old].start(t)
		}
		now := s.inUse(t)
		for range 5 {
			s.untilAnswered(t)
		}
		if got := s.inUse(t); got != now {
			t.Errorf("try %d: the laptop went from %s to %s, which came back, want it to stay", try, now, got)
		}
	}
	t.Logf("answered again, in order: %v", took)
	slices.Sort(took)
	t.Logf("answered again after %v to %v, median %v, of %d", took[0], took[len(took)-1], took[len(took)/2], len(took))
	eventually(t, "each move is counted", func() error {
		c, err := s.Laptop.DialContext(t.Context(), "tcp", monitor)
		if err != nil {
			return err
		}
		defer c.Close()
		within(t, c)
		if _, err := io.WriteString(c, "GET /metrics HTTP/1.0\r\n\r\n"); err != nil {
			return err
		}
		text, err := io.ReadAll(c)
		if want := fmt.Sprintf(`penstock_transport_reconnects_total{reason="moved",transport="corp"} %d`, len(took)); !strings.Contains(string(text), want) {
			return fmt.Errorf("%v, and no line %s", err, want)
		}
		return nil
	})
}

// freeze stops a penstock by SIGSTOP and waits until it has stopped.
func (p *penstock) freeze(t *testing.T) {
	t.Helper()
	p.signal(t, "STOP")
	eventually(t, p.host.Name()+"'s penstock has stopped", func() error {
		stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", p.cmd.Process.Pid))
		if _, after, _ := strings.Cut(string(stat), ") "); err != nil || !strings.HasPrefix(after, "T") {
			return fmt.Errorf("%v: %s", err, stat)
		}
		return nil
	})
}

// TestAStockClientReadsTheLastEndpoint: that is why only penstock join writes several.
func TestAStockClientReadsTheLastEndpoint(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.edit(t, "corp.conf", "Endpoint = "+netlab.GatewayIPv4+":51820", "Endpoint = "+netlab.GatewayIPv4+":51820\nEndpoint = 198.51.100.11:51821")
	stock(t, w.Laptop, w.path("corp.conf"), "10.20.0.0/24")
	if r := run(t, w.Laptop, program(t, "wg"), "show", "wg0", "endpoints"); !strings.Contains(r.stdout, "198.51.100.11:51821") || strings.Contains(r.stdout, netlab.GatewayIPv4+":") {
		t.Errorf("got %s, want the last endpoint alone", r)
	}
}
