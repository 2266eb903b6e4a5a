package e2e

import (
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"penstock/e2e/netlab"
)

// newKernelWorld is a world whose gateway keeps its state in the world's folder. nft has to be there.
func newKernelWorld(t *testing.T) *world {
	t.Helper()
	program(t, "nft")
	w := newWorld(t)
	w.edit(t, "gateway.yaml", "listen_port:", "direct: kernel, listen_port:")
	w.edit(t, "gateway.yaml", "include:", "state_dir: "+w.path("state")+"\ninclude:")
	return w
}

// byKernel starts the gateway and wants that direct flows leave by the kernel.
func (w *world) byKernel(t *testing.T) {
	t.Helper()
	w.gateway = start(t, w.Gateway, w.path("gateway.yaml"))
	w.gateway.wantDirect(t, "direct by the kernel")
}

// wantDirect waits until penstock says where direct flows leave.
func (p *penstock) wantDirect(t *testing.T, want string) {
	t.Helper()
	eventually(t, want, func() error {
		if out := p.cli(t, "status").stdout; !strings.Contains(out, "\n"+want) {
			return fmt.Errorf("status: got\n%s", out)
		}
		return nil
	})
}

// client is a stock client of the gateway's on the laptop.
func (w *world) client(t *testing.T) {
	t.Helper()
	stock(t, w.Laptop, w.path("corp.conf"), "10.99.0.0/24", "10.20.0.0/24", "fd20::/64", "fd99::/64", "203.0.113.0/24")
}

const (
	fetchIntranet  = "curl https://intranet.corp.example/ --resolve intranet.corp.example:443:" + netlab.IntranetIPv4
	fetchIntranet6 = "curl https://intranet.corp.example/ --resolve intranet.corp.example:443:[" + netlab.IntranetIPv6 + "]"
	isIntranet     = "this is intranet.corp.example\n"
)

// sh runs a line of a shell on a host, which must succeed.
func sh(t *testing.T, h *netlab.Host, line string) {
	t.Helper()
	if r := run(t, h, "sh", "-ec", line); r.code != 0 {
		t.Fatalf("%s: %s", line, r)
	}
}

// laptop: wireguard-go === WireGuard ===> [penstock -> TUN -> kernel] gateway --- intranet, internet
func TestDirectFlowsOfAGatewayLeaveByTheKernel(t *testing.T) {
	t.Parallel()
	w := newKernelWorld(t)
	sh(t, w.Gateway, "ip route add unreachable 203.0.113.99; ip route add unreachable 203.0.113.98")
	w.byKernel(t)
	w.client(t)
	for _, a := range []attempt{
		{"TCP", fetchIntranet, isIntranet, nil},
		{"TCP, IPv6", fetchIntranet6, isIntranet, nil},
		{"a refused port", "curl http://" + netlab.IntranetIPv4 + ":4/", "", []int{notConnected}},
		{"a refused port, IPv6", "curl http://[" + netlab.IntranetIPv6 + "]:4/", "", []int{notConnected}},
		{"a dead host", "curl http://10.20.0.77/", "", []int{notConnected}},
		{"a host that no route leads to", "curl http://203.0.113.99/", "", []int{notConnected}},
		{"an echo to it", "ping -c 1 -W 5 203.0.113.98", "From " + gatewayInner4 + " icmp_seq=1 Destination Host Unreachable", []int{1}},
		{"an echo", "ping -c 2 -W 5 " + netlab.IntranetIPv4, "2 received", nil},
		{"an echo, IPv6", "ping -c 2 -W 5 " + netlab.IntranetIPv6, "2 received", nil},
	} {
		t.Run(a.sentence, func(t *testing.T) { a.on(t, w.Laptop) })
	}
	for _, row := range []struct{ how, flags, to string }{
		{"UDP", "", netlab.IntranetIPv4}, {"UDP over IPv6", "", netlab.IntranetIPv6}, {"TCP", "-T -p 443", netlab.IntranetIPv4},
	} {
		t.Run("the gateway is one hop for "+row.how, func(t *testing.T) { w.traces(t, row.flags, row.to, 2) })
	}
	t.Run("what is too big is told by the gateway", func(t *testing.T) {
		sh(t, w.Gateway, "ip link set intra mtu 1300")
		attempt{"", "ping -M do -s 1350 -c 1 -W 5 " + netlab.IntranetIPv4, "From " + gatewayInner4 + " icmp_seq=1 Frag needed and DF set (mtu = 1300)", []int{1}}.on(t, w.Laptop)
		attempt{"", "ping -M do -s 1350 -c 1 -W 5 " + netlab.IntranetIPv6, "From " + gatewayInner6 + " icmp_seq=1 Packet too big: mtu=1300", []int{1}}.on(t, w.Laptop)
		attempt{"", fetchIntranet, isIntranet, nil}.on(t, w.Laptop)
	})
	flows := w.gateway.flows(t)
	for _, f := range flows {
		if !strings.HasPrefix(f.Datapath, "forwarded") {
			t.Errorf("flows: got %+v, want it forwarded", f)
		}
	}
	if len(flows) == 0 {
		t.Error("flows shows none")
	}
	if out := w.gateway.must(t, "explain", netlab.IntranetIPv4+":443", "--from", "laptop"); !strings.Contains(out, "forwarded: no name could change the verdict") {
		t.Errorf("explain: got\n%s\nwant it forwarded", out)
	}
}

// laptop: wireguard-go === WireGuard ===> [penstock -> TUN -> kernel] gateway --- internet
func TestAFlowByTheKernelIsJudgedInLine(t *testing.T) {
	t.Parallel()
	w := newKernelWorld(t)
	w.edit(t, "gateway.yaml", "rules:\n", "rules:\n  - {name: no-gambling, match: {domain: "+netlab.GamblingSite+"}, do: block}\n")
	w.byKernel(t)
	w.client(t)
	for _, a := range []attempt{
		{"another name", "curl https://" + netlab.PublicSite + "/ --resolve " + netlab.PublicSite + ":443:" + publicIPv4, "this is " + netlab.PublicSite + "\n", nil},
		{"the name", "curl https://" + netlab.GamblingSite + "/ --resolve " + netlab.GamblingSite + ":443:" + gamblingIPv4, "", cutOff()},
		{"the name at another's address", "curl https://" + netlab.GamblingSite + "/ --resolve " + netlab.GamblingSite + ":443:" + publicIPv4, "", cutOff()},
	} {
		t.Run(a.sentence, func(t *testing.T) { a.on(t, w.Laptop) })
	}
	if f := w.gateway.denied(t, gamblingIPv4+":443"); f.Rule != "no-gambling" || f.Host != netlab.GamblingSite {
		t.Errorf("flows --denied: got %+v, want it judged by its name", f)
	}
	eventually(t, "the flow that was carried is counted as judged in line", func() error {
		if w.metric(t, w.Gateway, `penstock_flows_carried_total{datapath="inline"}`) == 0 {
			return errors.New("none was")
		}
		return nil
	})
}

// laptop: wireguard-go === WireGuard ===> [penstock -> TUN -> kernel] gateway --- intranet
func TestAKilledFlowByTheKernelEndsOnBothSides(t *testing.T) {
	t.Parallel()
	w := newKernelWorld(t)
	w.byKernel(t)
	w.client(t)
	served := make(chan error, 1)
	serve(t, w.Intranet, netlab.IntranetIPv4+":5001", func(c *net.TCPConn) {
		within(t, c)
		c.Write([]byte("hello"))
		_, err := c.Read(make([]byte, 1))
		served <- err
	})
	c := dial(t, w.Laptop, "tcp", netlab.IntranetIPv4+":5001")
	if _, err := c.Read(make([]byte, 5)); err != nil {
		t.Fatal(err)
	}
	flows := w.gateway.flows(t)
	if len(flows) != 1 || flows[0].Datapath != "forwarded" {
		t.Fatalf("flows: got %+v, want one that is forwarded", flows)
	}
	w.gateway.must(t, "flows", "kill", flows[0].ID)
	if _, err := c.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("the client: got %v, want a reset", err)
	}
	if err := <-served; !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("the server: got %v, want a reset", err)
	}
}

// [penstock, stopped] gateway
func TestAGatewayGivesItsHostBack(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		sentence string
		end      func(t *testing.T, w *world)
	}{
		{"by SIGTERM", func(t *testing.T, w *world) { w.gateway.stop(t, syscall.SIGTERM) }},
		{"by SIGKILL and cleanup", func(t *testing.T, w *world) {
			w.gateway.kill(t)
			for range 2 { // the second finds nothing to do
				if r := w.gateway.cli(t, "cleanup", "-c", w.gateway.config); r.code != 0 {
					t.Errorf("cleanup: %s", r)
				}
			}
		}},
		{"by SIGKILL and the next start", func(t *testing.T, w *world) {
			w.gateway.kill(t)
			w.gateway.start(t)
			w.gateway.wantDirect(t, "direct by the kernel")
			w.gateway.stop(t, syscall.SIGTERM)
		}},
		{"by SIGKILL and a start that uses sockets", func(t *testing.T, w *world) {
			w.gateway.kill(t)
			w.edit(t, "gateway.yaml", "direct: kernel, ", "direct: sockets, ")
			w.gateway.start(t)
			w.gateway.wantDirect(t, "direct by sockets: listen.wireguard.direct is sockets")
			w.gateway.stop(t, syscall.SIGTERM)
		}},
		{"by SIGKILL, a damaged state file and the next start", func(t *testing.T, w *world) {
			sh(t, w.Gateway, "sysctl -qw net.ipv4.ip_forward=0")
			w.gateway.stop(t, syscall.SIGTERM)
			if err := os.WriteFile(w.path("state/kernel.json"), []byte("{"), 0o600); err != nil {
				t.Fatal(err)
			}
			w.gateway.start(t)
			w.gateway.wantDirect(t, "direct by the kernel")
			w.gateway.stop(t, syscall.SIGTERM)
		}},
	} {
		t.Run(row.sentence, func(t *testing.T) {
			w := newKernelWorld(t)
			gateway := settled(t, w.Gateway)
			w.byKernel(t)
			if now := state(t, w.Gateway); !strings.Contains(now, "/conf/wan/forwarding:1") || !strings.Contains(now, "masquerade") {
				t.Errorf("the running penstock changed nothing, so the comparison would prove nothing:\n%s", difference(gateway, now))
			}
			row.end(t, w)
			wantState(t, w.Gateway, gateway)
		})
	}
}

// [penstock, stopped] gateway, which others make a router meanwhile
func TestAHostThatOthersMakeARouterStaysOne(t *testing.T) {
	t.Parallel()
	w := newKernelWorld(t)
	w.crosses(t, false)
	w.byKernel(t)
	w.crosses(t, false)
	sh(t, w.Gateway, "sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1")
	w.crosses(t, true)
	w.gateway.stop(t, syscall.SIGTERM)
	w.crosses(t, true)
}

// crosses waits until the gateway is a router between the internet and the intranet, or looks that it is none.
func (w *world) crosses(t *testing.T, want bool) {
	t.Helper()
	for _, route := range [][2]string{{"10.20.0.0/24", netlab.GatewayIPv4}, {"fd20::/64", netlab.GatewayIPv6}} {
		sh(t, w.Internet, "ip route replace "+route[0]+" via "+route[1])
	}
	for _, to := range []string{netlab.IntranetIPv4, netlab.IntranetIPv6} {
		if want {
			eventually(t, to+" is reached through the gateway", func() error {
				if r := run(t, w.Internet, "ping", "-c", "1", "-W", "1", to); r.code != 0 {
					return fmt.Errorf("ping: %s", r)
				}
				return nil
			})
		} else if r := run(t, w.Internet, "ping", "-c", "2", "-i", "0.2", "-W", "1", to); r.code == 0 {
			t.Errorf("%s from beyond the gateway: got %s, want no way", to, r)
		}
	}
}

// internet --- [penstock -> TUN -> kernel] gateway --- intranet
func TestAGatewayIsNoRouterForItsNeighbours(t *testing.T) {
	t.Parallel()
	w := newKernelWorld(t)
	w.byKernel(t)
	w.client(t)
	attempt{"", fetchIntranet, isIntranet, nil}.on(t, w.Laptop)
	w.crosses(t, false)
	for _, h := range []*netlab.Host{w.Internet, w.Intranet} {
		for _, to := range []string{"198.19.255.1", "198.19.255.2", "fd70:656e::1", "fd70:656e::2"} {
			via := map[bool][2]string{true: {netlab.GatewayIPv4, netlab.GatewayIPv6}, false: {"10.20.0.1", "fd20::1"}}[h == w.Internet]
			gateway := via[strings.Count(to, ":")/2]
			sh(t, h, "ip route replace "+to+" via "+gateway)
			if r := run(t, h, "ping", "-c", "2", "-i", "0.2", "-W", "1", to); r.code == 0 {
				t.Errorf("%s from %s: got %s, want no answer", to, h.Name(), r)
			}
			if r := run(t, h, "nc", "-z", "-w", "1", to, "22"); r.code == 0 {
				t.Errorf("port 22 of %s from %s: got %s, want no answer", to, h.Name(), r)
			}
		}
	}
	for _, to := range []string{"198.19.255.2", "fd70:656e::2"} { // the stack's
		if r := run(t, w.Gateway, "nc", "-z", "-w", "1", to, "22"); r.code == 0 {
			t.Errorf("port 22 of %s from the gateway: got %s, want no answer", to, r)
		}
	}
	sh(t, w.Gateway, "ip link set intra mtu 1300")
	for _, row := range []struct{ sentence, flags string }{
		{"no hop is left", "-t 1 " + netlab.IntranetIPv4},
		{"no hop is left, IPv6", "-t 1 " + netlab.IntranetIPv6},
		{"the next link is too narrow", "-M do -s 1350 " + netlab.IntranetIPv4},
		{"the next link is too narrow, IPv6", "-M do -s 1350 " + netlab.IntranetIPv6},
	} {
		if r := run(t, w.Internet, "sh", "-c", "ping -c 2 -i 0.2 -W 1 "+row.flags); strings.Contains(r.stdout, "From ") {
			t.Errorf("%s: got %s, want that the gateway says nothing", row.sentence, r)
		}
	}
	// The control: without the chain the gateway is a router. A penstock that does not sleep would put it back.
	w.gateway.signal(t, "STOP")
	sh(t, w.Gateway, "nft flush chain inet penstock_penk51820 admit")
	w.crosses(t, true)
	w.gateway.signal(t, "CONT")
	eventually(t, "the chain is back", func() error {
		if r := run(t, w.Internet, "ping", "-c", "1", "-W", "1", netlab.IntranetIPv4); r.code == 0 {
			return errors.New("the gateway is still a router")
		}
		return nil
	})
}

// internet --- [penstock -> TUN -> kernel; forwards for others too] gateway --- intranet
func TestARouterStaysOneBesideAGateway(t *testing.T) {
	t.Parallel()
	w := newKernelWorld(t)
	sh(t, w.Gateway, `sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1
		nft add table inet mine
		nft add chain inet mine theirs '{ type filter hook forward priority 0; policy accept; }'
		nft add rule inet mine theirs tcp dport 4 counter accept`)
	gateway := settled(t, w.Gateway)
	w.crosses(t, true)
	w.byKernel(t)
	w.client(t)
	attempt{"", fetchIntranet, isIntranet, nil}.on(t, w.Laptop)
	attempt{"", fetchIntranet6, isIntranet, nil}.on(t, w.Laptop)
	w.crosses(t, true)
	w.gateway.stop(t, syscall.SIGTERM)
	w.crosses(t, true)
	wantState(t, w.Gateway, gateway)
}

const (
	othersForward = "nft add table inet other; nft add chain inet other theirs '{ type filter hook forward priority 0; "
	admitOurs     = "for i in iptables ip6tables; do $i -I FORWARD -i penk51820 -j ACCEPT; $i -I FORWARD -o penk51820 -j ACCEPT; done"
)

// [penstock -> sockets] gateway --- intranet
func TestAGatewayUsesSocketsWhereTheKernelWillNotForward(t *testing.T) {
	t.Parallel()
	for _, row := range []struct{ sentence, before, config, binary, want, undo string }{
		{"sysctls cannot be written", "mount -o bind,ro /proc/sys /proc/sys", "", "", "the host cannot be made to forward", ""},
		{"there is no privilege", "", "", "setpriv --bounding-set=-net_admin --inh-caps=-net_admin", "CAP_NET_ADMIN", ""},
		{"the configuration says so", "", "direct: sockets, ", "", "listen.wireguard.direct is sockets", ""},
		{
			"another firewall drops what is forwarded",
			othersForward + "policy drop; }'", "", "", "another program's firewall may stop what the host forwards, or the answers: chain theirs of table other", "nft delete table inet other",
		},
		{"it drops TCP alone", othersForward + "}'; nft add rule inet other theirs meta l4proto tcp drop", "", "", "chain theirs of table other", "nft delete table inet other"},
		{"iptables drops what is forwarded", "iptables -P FORWARD DROP; ip6tables -P FORWARD DROP", "", "", "chain FORWARD of table filter", admitOurs},
		{
			"a rule routes nowhere what it forwards", "ip rule add iif penk51820 unreachable; ip -6 rule add iif penk51820 unreachable", "", "", "a rule routes it otherwise than what the host sends",
			"ip rule del iif penk51820 unreachable; ip -6 rule del iif penk51820 unreachable",
		},
	} {
		t.Run(row.sentence, func(t *testing.T) {
			if strings.Contains(row.before, "iptables") {
				program(t, "ip6tables")
			}
			w := newKernelWorld(t)
			if row.config != "" {
				w.edit(t, "gateway.yaml", "direct: kernel, ", row.config)
			}
			if row.before != "" {
				sh(t, w.Gateway, row.before)
			}
			gateway := settled(t, w.Gateway)
			binary := built("penstock")
			if row.binary != "" {
				program(t, "setpriv")
				binary = w.path("wrapped")
				if err := os.WriteFile(binary, []byte("#!/bin/sh\nexec "+row.binary+" "+built("penstock")+" \"$@\"\n"), 0o700); err != nil {
					t.Fatal(err)
				}
			}
			w.gateway = startProgram(t, w.Gateway, w.path("gateway.yaml"), binary)
			w.gateway.wantDirect(t, "direct by sockets: ")
			if out := w.gateway.must(t, "status"); !strings.Contains(out, row.want) {
				t.Errorf("status: got\n%s\nwant %q", out, row.want)
			}
			if said := w.gateway.said.String(); row.config == "" && (!strings.Contains(said, "direct by sockets: ") || !strings.Contains(said, row.want)) {
				t.Errorf("the log: got\n%s\nwant %q", said, row.want)
			}
			w.client(t)
			attempt{"", fetchIntranet, isIntranet, nil}.on(t, w.Laptop)
			if out := w.gateway.must(t, "explain", netlab.IntranetIPv4+":443", "--from", "laptop"); !strings.Contains(out, "terminated: ") || !strings.Contains(out, row.want) {
				t.Errorf("explain: got\n%s\nwant it terminated, with %q", out, row.want)
			}
			if row.undo != "" {
				sh(t, w.Gateway, row.undo)
				w.gateway.wantDirect(t, "direct by the kernel\n")
				attempt{"", fetchIntranet, isIntranet, nil}.on(t, w.Laptop)
				return
			}
			w.gateway.stop(t, syscall.SIGTERM)
			wantState(t, w.Gateway, gateway)
		})
	}
}

// [penstock -> TUN -> kernel, as a user with one capability] gateway --- intranet
func TestTheKernelsWayNeedsOneCapability(t *testing.T) {
	t.Parallel()
	needsOthers(t)
	program(t, "setpriv")
	w := newKernelWorld(t)
	gateway := settled(t, w.Gateway)
	binary := w.path("wrapped")
	script := "#!/bin/sh\nexec setpriv --reuid=65534 --regid=65534 --clear-groups --inh-caps=-all,+net_admin --ambient-caps=+net_admin " +
		"--bounding-set=-all,+net_admin " + built("penstock") + " \"$@\"\n"
	if err := os.WriteFile(binary, []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	sh(t, w.Gateway, "mkdir -p "+w.path("state")+"; chown -R 65534:65534 "+w.dir)
	w.gateway = startProgram(t, w.Gateway, w.path("gateway.yaml"), binary)
	w.gateway.wantDirect(t, "direct by the kernel\n")
	w.client(t)
	attempt{"", fetchIntranet, isIntranet, nil}.on(t, w.Laptop)
	attempt{"", fetchIntranet6, isIntranet, nil}.on(t, w.Laptop)
	w.gateway.stop(t, syscall.SIGTERM)
	wantState(t, w.Gateway, gateway)
}

// [penstock -> TUN, deleted -> kernel] gateway --- intranet
func TestAGatewayWithoutItsTUNUsesSockets(t *testing.T) {
	t.Parallel()
	w := newKernelWorld(t)
	gateway := settled(t, w.Gateway)
	w.byKernel(t)
	w.client(t)
	serve(t, w.Intranet, netlab.IntranetIPv4+":5001", func(c *net.TCPConn) { c.Read(make([]byte, 1)) })
	c := dial(t, w.Laptop, "tcp", netlab.IntranetIPv4+":5001")
	sh(t, w.Gateway, "ip link delete penk51820")
	w.gateway.wantDirect(t, "direct by sockets: the TUN penk51820 ")
	if _, err := c.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("a flow that left by it: got %v, want a reset", err)
	}
	attempt{"", fetchIntranet, isIntranet, nil}.on(t, w.Laptop)
	eventually(t, "the host is as before", func() error {
		if now := state(t, w.Gateway); strings.Contains(now, "/conf/wan/forwarding:1") || strings.Contains(now, "masquerade") {
			return errors.New(difference(gateway, now))
		}
		return nil
	})
}

// laptop: wireguard-go === WireGuard ===> [penstock -> TUN -> kernel, or a socket] gateway --- intranet
func TestAFlowHasTheSourceThatItsRouteNames(t *testing.T) {
	t.Parallel()
	w := newKernelWorld(t)
	w.byKernel(t)
	w.client(t)
	serve(t, w.Intranet, netlab.IntranetIPv4+":5001", func(c *net.TCPConn) { fmt.Fprintln(c, c.RemoteAddr()) })
	comesFrom := func(want, datapath string) {
		t.Helper()
		eventually(t, "a flow from "+want, func() error {
			if r := run(t, w.Laptop, "curl", "-sS", "--max-time", "2", "telnet://"+netlab.IntranetIPv4+":5001"); !strings.HasPrefix(r.stdout, want+":") {
				return fmt.Errorf("got %s", r)
			}
			return nil
		})
		for _, f := range w.gateway.flows(t, "--recent") {
			if f.Dst == netlab.IntranetIPv4+":5001" && strings.HasPrefix(f.Datapath, datapath) {
				return
			}
		}
		t.Errorf("flows --recent: got none that was %s", datapath)
	}
	comesFrom("10.20.0.1", "forwarded")
	sh(t, w.Gateway, "ip addr add 10.20.0.99/24 dev intra; ip route replace 10.20.0.0/24 dev intra src 10.20.0.99")
	comesFrom("10.20.0.99", "terminated")
	if out := w.gateway.must(t, "explain", netlab.IntranetIPv4+":5001", "--from", "laptop"); !strings.Contains(out, "terminated: a route names a source address") {
		t.Errorf("explain: got\n%s\nwant it terminated because of the route", out)
	}
	w.gateway.wantDirect(t, "direct by the kernel") // to all else
}

// laptop: wireguard-go === WireGuard ===> [penstock -> TUN -> kernel] gateway --- intranet, by a network that is the TUN's, too
func TestAGatewaysTUNMakesRoomForAnotherInterface(t *testing.T) {
	t.Parallel()
	w := newKernelWorld(t)
	gateway := settled(t, w.Gateway)
	w.byKernel(t)
	w.client(t)
	attempt{"", fetchIntranet, isIntranet, nil}.on(t, w.Laptop)
	sh(t, w.Gateway, "ip addr show dev penk51820 | grep -q 198.19.255.1/30")
	sh(t, w.Intranet, "ip addr add 198.19.255.2/30 dev intra")
	sh(t, w.Gateway, "ip addr add 198.19.255.1/30 dev intra")
	eventually(t, "the other network is not cut off", func() error {
		if r := run(t, w.Gateway, "ping", "-c", "1", "-W", "1", "-I", "intra", "198.19.255.2"); r.code != 0 {
			return errors.New(r.String())
		}
		return nil
	})
	sh(t, w.Gateway, "ip addr show dev penk51820 | grep -q 198.19.254.1/30")
	w.gateway.wantDirect(t, "direct by the kernel")
	attempt{"", fetchIntranet, isIntranet, nil}.on(t, w.Laptop)
	attempt{"", fetchIntranet6, isIntranet, nil}.on(t, w.Laptop)
	if flows := w.gateway.flows(t, "--recent"); len(flows) == 0 || !strings.HasPrefix(flows[0].Datapath, "forwarded") {
		t.Errorf("flows --recent: got %+v, want them forwarded", flows)
	}
	if said := w.gateway.said.String(); !strings.Contains(said, "the TUN has moved") || !strings.Contains(said, `"interface":"intra"`) {
		t.Errorf("the log: got\n%s\nwant that the TUN has moved because of intra", said)
	}
	// There is no room any more.
	sh(t, w.Gateway, "ip addr add 198.18.0.9/15 dev intra")
	w.gateway.wantDirect(t, "direct by sockets: hostnet: the host is connected to all networks like ")
	eventually(t, "the log", func() error {
		if said := w.gateway.said.String(); !strings.Contains(said, `"msg":"direct by sockets: hostnet: `) {
			return errors.New(said)
		}
		return nil
	})
	attempt{"", fetchIntranet, isIntranet, nil}.on(t, w.Laptop)
	sh(t, w.Gateway, "ip addr del 198.18.0.9/15 dev intra; ip addr del 198.19.255.1/30 dev intra")
	w.gateway.stop(t, syscall.SIGTERM)
	wantState(t, w.Gateway, gateway)
}

// laptop: wireguard-go === WireGuard, MTU 1420 ===> [penstock -> TUN -> kernel] gateway --- intranet
func TestAServerIsToldThatItsAnswerIsTooBig(t *testing.T) {
	t.Parallel()
	w := newKernelWorld(t)
	w.byKernel(t)
	w.client(t)
	for _, to := range []string{netlab.IntranetIPv4, netlab.IntranetIPv6} {
		to = net.JoinHostPort(to, "5001")
		server, err := w.Intranet.ListenPacket(t.Context(), "udp", to)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { server.Close() })
		go func() {
			b := make([]byte, 1)
			for {
				_, from, err := server.ReadFrom(b)
				if err != nil {
					return
				}
				_, _ = server.WriteTo(make([]byte, 1440), from) // fails once, when the link is known to be too narrow
			}
		}()
		c := dial(t, w.Laptop, "udp", to)
		eventually(t, to+": an answer in parts", func() error {
			if err := c.SetDeadline(time.Now().Add(time.Second)); err != nil {
				return err
			}
			if _, err := c.Write([]byte("x")); err != nil {
				return err
			}
			n, err := c.Read(make([]byte, 2000))
			if n != 1440 {
				return fmt.Errorf("got %d bytes, %v", n, err)
			}
			return nil
		})
	}
}
