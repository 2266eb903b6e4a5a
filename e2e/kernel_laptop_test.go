package e2e

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"penstock/e2e/netlab"
)

// newDirectLaptop is a world whose laptop sends directly what is not blocked, so that no name leads a flow elsewhere. nft has to be
// there.
func newDirectLaptop(t *testing.T, edits ...string) *world {
	t.Helper()
	program(t, "nft")
	return newWorld(t, append([]string{
		"  - {name: intranet, match: {domain: corp.example}, do: {via: corp}}\n", "",
		"{name: rest, do: {via: corp}}", "{name: rest, do: direct}",
	}, edits...)...)
}

// direct starts the laptop alone, and wants that direct flows leave by the kernel.
func (w *world) direct(t *testing.T) {
	t.Helper()
	w.laptop = start(t, w.Laptop, w.path("laptop.yaml"))
	w.laptop.wantDirect(t, "direct by the kernel\n")
}

const (
	fetchPublic  = "curl https://" + netlab.PublicSite + "/ --resolve " + netlab.PublicSite + ":443:" + publicIPv4
	fetchPublic6 = "curl https://" + netlab.PublicSite + "/ --resolve " + netlab.PublicSite + ":443:[" + publicIPv6 + "]"
	inLine       = "forwarded, judged in line"
	isPublic     = "this is " + netlab.PublicSite + "\n"
)

// [pen0 -> penstock -> penk0 -> kernel] laptop --- access --- internet
func TestDirectTCPOfALaptopLeavesByTheKernel(t *testing.T) {
	t.Parallel()
	for _, lockdown := range []bool{false, true} {
		t.Run(fmt.Sprintf("lockdown %v", lockdown), func(t *testing.T) {
			t.Parallel()
			w := newDirectLaptop(t, "listen:\n", fmt.Sprintf("always_on: {lockdown: %v}\nlisten:\n", lockdown),
				"rules:\n", "rules:\n  - {name: here, match: {cidr: 10.55.0.0/24}, do: direct}\n")
			sh(t, w.Access, "ip route add prohibit 203.0.113.99")
			if lockdown { // and a kernel that drops what comes in by another way than its answer would leave
				sh(t, w.Laptop, "sysctl -qw net.ipv4.conf.all.rp_filter=1 net.ipv4.conf.default.rp_filter=1 net.ipv4.conf.lan0.rp_filter=1")
			}
			w.direct(t)
			for _, a := range []attempt{
				{"TCP", fetchPublic, isPublic, nil},
				{"TCP, IPv6", fetchPublic6, isPublic, nil},
				{"a refused port", "curl http://" + publicIPv4 + ":4/", "", []int{notConnected}},
				{"a refused port, IPv6", "curl http://[" + publicIPv6 + "]:4/", "", []int{notConnected}},
				{"a host that a router forbids", "curl http://203.0.113.99:82/", "", []int{notConnected}},
				{"an echo, by a socket", "ping -c 2 -W 5 " + publicIPv4, "2 received", nil},
				{"a blocked name", "curl https://" + netlab.GamblingSite + "/ --resolve " + netlab.GamblingSite + ":443:" + publicIPv4, "", cutOff()},
				{"a blocked name on another port", "curl https://" + netlab.GamblingSite + ":8443/ --resolve " + netlab.GamblingSite + ":8443:" + publicIPv4, "", refusedOrCutOff()},
			} {
				t.Run(a.sentence, func(t *testing.T) { a.on(t, w.Laptop) })
			}
			t.Run("the laptop is one hop", func(t *testing.T) { w.traces(t, "-T -p 443", publicIPv4, 3) })
			t.Run("what a router says is too big is sent again in smaller packets", func(t *testing.T) {
				sh(t, w.Access, "ip link set wan mtu 1290")
				sh(t, w.Internet, "ip link set access mtu 1290")
				for _, to := range []string{publicIPv4, publicIPv6} {
					to = net.JoinHostPort(to, "5002")
					got := make(chan int64, 1)
					serve(t, w.Internet, to, func(c *net.TCPConn) {
						n, _ := io.Copy(io.Discard, c)
						got <- n
					})
					c := dial(t, w.Laptop, "tcp", to)
					within(t, c)
					if _, err := c.Write(make([]byte, 1<<20)); err != nil {
						t.Errorf("%s: %v", to, err)
					}
					c.Close()
					if n := <-got; n != 1<<20 {
						t.Errorf("%s got %d bytes, want a MiB", to, n)
					}
				}
			})
			if f := w.laptop.denied(t, publicIPv4+":443"); f.Rule != "no-gambling" {
				t.Errorf("flows --denied: got %+v, want it judged by its name", f)
			}
			for _, f := range w.laptop.flows(t, "--recent") {
				if f.Dst == publicIPv4+":443" && f.Verdict == "direct" && f.Datapath != inLine {
					t.Errorf("flows: got %+v, want it judged in line", f)
				}
			}
			for target, want := range map[string]string{
				publicIPv4 + ":443":            "datapath   " + inLine + ": a name in the flow could still block it",
				"udp://" + publicIPv4 + ":443": "terminated: on a laptop only TCP leaves by the kernel",
				netlab.AccessIPv4 + ":443":     "terminated: only a socket of penstock may go there",
			} {
				if out := w.laptop.must(t, "explain", target); !strings.Contains(out, want) {
					t.Errorf("explain %s: got\n%s\nwant %q", target, out, want)
				}
			}
		})
	}
}

// [pen0 -> penstock -> penk0 -> kernel] laptop --- internet
func TestADirectFlowOfALaptopEndsOnBothSides(t *testing.T) {
	t.Parallel()
	w := newDirectLaptop(t)
	w.direct(t)
	served := make(chan error, 1)
	serve(t, w.Internet, publicIPv4+":5001", func(c *net.TCPConn) {
		within(t, c)
		c.Write([]byte("hello"))
		_, err := c.Read(make([]byte, 1))
		served <- err
	})
	c := dial(t, w.Laptop, "tcp", publicIPv4+":5001")
	if _, err := io.ReadFull(c, make([]byte, 5)); err != nil {
		t.Fatal(err)
	}
	var ids []string
	for _, f := range w.laptop.flows(t) {
		if f.Dst == publicIPv4+":5001" {
			ids = append(ids, f.ID)
			if f.RxBytes != 5 || f.Datapath != inLine {
				t.Errorf("flows: got %+v, want 5 bytes received, and it judged in line", f)
			}
		}
	}
	if len(ids) != 1 {
		t.Fatalf("flows: got %q, want one", ids)
	}
	w.laptop.must(t, "flows", "kill", ids[0])
	if _, err := c.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("the client: got %v, want a reset", err)
	}
	if err := <-served; !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("the server: got %v, want a reset", err)
	}
}

// [penstock, stopped] laptop
func TestALaptopGivesItsForwardingBack(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		sentence string
		end      func(t *testing.T, w *world)
	}{
		{"by SIGTERM", func(t *testing.T, w *world) { w.laptop.stop(t, syscall.SIGTERM) }},
		{"by SIGKILL and cleanup", func(t *testing.T, w *world) {
			w.laptop.kill(t)
			for range 2 { // the second finds nothing to do
				w.laptop.must(t, "cleanup", "-c", w.laptop.config)
			}
		}},
		{"by SIGKILL and cleanup of its state", func(t *testing.T, w *world) {
			w.laptop.kill(t)
			w.laptop.must(t, "cleanup", "--state", w.path("host.json"))
		}},
		{"by SIGKILL and a start that uses sockets", func(t *testing.T, w *world) {
			w.laptop.kill(t)
			w.edit(t, "laptop.yaml", "{name: pen0, ", "{name: pen0, direct: sockets, ")
			w.laptop.start(t)
			w.laptop.wantDirect(t, "direct by sockets: listen.tun.direct is sockets")
			w.laptop.stop(t, syscall.SIGTERM)
		}},
	} {
		t.Run(row.sentence, func(t *testing.T) {
			t.Parallel()
			w := newDirectLaptop(t)
			before := settled(t, w.Laptop)
			w.direct(t)
			if now := state(t, w.Laptop); !strings.Contains(now, "/conf/lan0/forwarding:1") || !strings.Contains(now, "masquerade") {
				t.Errorf("the running penstock changed nothing, so the comparison would prove nothing:\n%s", difference(before, now))
			} else if strings.Contains(now, "/conf/pen0/forwarding:1") {
				t.Error("the laptop's own TUN forwards, which nothing needs")
			}
			row.end(t, w)
			wantState(t, w.Laptop, before)
		})
	}
}

// access --- lan0 [penstock -> penk0 -> kernel] laptop
//
// A neighbour sends packets for others to the laptop. Neither does the laptop forward them, nor are they flows.
func TestALaptopIsNoRouterForItsNeighbours(t *testing.T) {
	t.Parallel()
	w := newDirectLaptop(t)
	w.direct(t)
	attempt{"", fetchPublic, isPublic, nil}.on(t, w.Laptop)
	passes := func(to, via string) bool {
		sh(t, w.Access, "ip route replace "+to+" via "+via)
		run(t, w.Access, "nc", "-z", "-w", "1", to, "80")
		return w.laptop.saw(t, to)
	}
	const stranger, stranger6 = "192.0.2.77", "2001:db8:77::77"
	if passes(stranger, netlab.LaptopIPv4) || passes(stranger6, netlab.LaptopIPv6) {
		t.Error("a neighbour's packet for somebody else became a flow")
	}
	// The control: without the chain it does.
	w.laptop.signal(t, "STOP")
	sh(t, w.Laptop, "nft flush chain inet penstock_penk0 admit")
	run(t, w.Access, "nc", "-z", "-w", "1", stranger, "80")
	w.laptop.signal(t, "CONT")
	eventually(t, "the packet that was let in is a flow", func() error {
		if !w.laptop.saw(t, stranger) {
			return errors.New("it is none")
		}
		return nil
	})
}

// saw reports whether there is, or was, a flow to an address.
func (p *penstock) saw(t *testing.T, to string) bool {
	t.Helper()
	return slices.ContainsFunc(slices.Concat(p.flows(t, "--recent"), p.flows(t, "--denied")), func(f flow) bool { return strings.Contains(f.Dst, to) })
}

// otherwise is what a laptop says of another firewall.
const otherwise = "direct by sockets: another program's firewall may treat what this host forwards otherwise than what it sends: "

// [pen0 -> penstock -> sockets] laptop, whose other firewall forwards nothing
func TestALaptopUsesSocketsWhereTheKernelWillNotForward(t *testing.T) {
	t.Parallel()
	w := newDirectLaptop(t)
	sh(t, w.Laptop, "nft add table inet other; nft add chain inet other theirs '{ type filter hook forward priority 0; policy drop; }'")
	w.laptop = start(t, w.Laptop, w.path("laptop.yaml"))
	w.laptop.wantDirect(t, otherwise+"chain theirs of table other")
	attempt{"", fetchPublic, isPublic, nil}.on(t, w.Laptop)
	attempt{"", fetchPublic6, isPublic, nil}.on(t, w.Laptop)
	sh(t, w.Laptop, "nft delete table inet other")
	w.laptop.wantDirect(t, "direct by the kernel\n")
	attempt{"", fetchPublic, isPublic, nil}.on(t, w.Laptop)
}

// [pen0 -> penstock -> sockets] laptop, to which rules of another firewall come
func TestALaptopEvadesNoRulesOfAnotherFirewall(t *testing.T) {
	t.Parallel()
	refused, fetched := attempt{"", fetchPublic, "", refusedOrCutOff()}, attempt{"", fetchPublic, isPublic, nil}
	for _, row := range []struct {
		needs, before, rule, want string
		then                      attempt
		undo                      string
	}{
		{
			"nft", "nft add table inet mine; nft add chain inet mine out '{ type filter hook output priority 0; policy accept; }'",
			"nft add rule inet mine out oifname lan0 tcp dport 443 reject", "chain out of table mine", refused, "nft delete table inet mine",
		},
		{
			"nft", "nft add table inet mine; nft add chain inet mine theirs '{ type filter hook forward priority 0; policy accept; }'",
			"nft add rule inet mine theirs meta l4proto tcp drop", "chain theirs of table mine", fetched, "nft delete table inet mine",
		},
		{
			"iptables-nft", "", "iptables-nft -t nat -A OUTPUT -o lan0 -p tcp --dport 443 -j REDIRECT --to-ports 4",
			"chain OUTPUT of table nat", refused, "iptables-nft -t nat -F OUTPUT",
		},
		{
			"iptables-legacy", "", "iptables-legacy -A OUTPUT -o lan0 -p tcp --dport 443 -j REJECT --reject-with tcp-reset",
			"chain OUTPUT of table filter (iptables-legacy)", refused, "iptables-legacy -F OUTPUT", // the table stays, empty
		},
		{
			"iptables-legacy", "", "iptables-legacy -t raw -A PREROUTING -j NOTRACK",
			"chain PREROUTING of table raw (iptables-legacy)", fetched, "iptables-legacy -t raw -F PREROUTING",
		},
	} {
		t.Run(row.want, func(t *testing.T) {
			t.Parallel()
			w := newDirectLaptop(t)
			program(t, row.needs)
			sh(t, w.Laptop, row.before)
			w.direct(t)
			sh(t, w.Laptop, row.rule)
			w.laptop.wantDirect(t, otherwise+row.want+"\n")
			row.then.on(t, w.Laptop)
			sh(t, w.Laptop, row.undo)
			w.laptop.wantDirect(t, "direct by the kernel\n")
			fetched.on(t, w.Laptop)
		})
	}
}

// [pen0 -> penstock -> penk0 -> kernel, then sockets] laptop --- internet
//
// Rules come that would not see what a live flow sends.
func TestALiveFlowOfALaptopEndsWhenRulesCome(t *testing.T) {
	t.Parallel()
	w := newDirectLaptop(t)
	w.direct(t)
	served := make(chan error, 3) // one for each connection
	serve(t, w.Internet, publicIPv4+":5001", func(c *net.TCPConn) {
		_, err := io.Copy(c, c)
		served <- err
	})
	echo := func() net.Conn {
		c := dial(t, w.Laptop, "tcp", publicIPv4+":5001")
		if _, err := c.Write([]byte("x")); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(c, make([]byte, 1)); err != nil {
			t.Fatal(err)
		}
		return c
	}
	c := echo()
	w.laptop.carried(t, publicIPv4+":5001", inLine)
	sh(t, w.Laptop, `nft add table inet mine; nft add chain inet mine out '{ type filter hook output priority 0; policy accept; }'
		nft add rule inet mine out udp dport 4 drop`)
	if _, err := c.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("the client: got %v, want a reset", err)
	}
	if err := <-served; !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("the server: got %v, want a reset", err)
	}
	w.laptop.wantDirect(t, otherwise+"chain out of table mine\n")
	c = echo()
	w.laptop.carried(t, publicIPv4+":5001", "terminated")
	sh(t, w.Laptop, "nft delete table inet mine")
	w.laptop.wantDirect(t, "direct by the kernel\n")
	echo()
	within(t, c)
	if _, err := c.Write([]byte("x")); err != nil {
		t.Errorf("the flow by a socket, when the rules have gone: %v", err)
	}
}

// [penstock, killed] laptop under lockdown
//
// A state file that cannot be used costs nothing: the host stays closed, and is no router.
func TestADamagedStateOfForwardingOpensNothing(t *testing.T) {
	t.Parallel()
	w := newDirectLaptop(t, "listen:\n", "always_on: {lockdown: true}\nlisten:\n")
	before := settled(t, w.Laptop)
	w.direct(t)
	w.laptop.kill(t)
	w.write(t, "kernel-laptop.json", "{")
	w.laptop.must(t, "cleanup", "-c", w.laptop.config)
	now := state(t, w.Laptop)
	if !strings.Contains(now, "table inet penstock_pen0") || strings.Contains(now, "penk0") || strings.Contains(now, "/conf/lan0/forwarding:1") {
		t.Errorf("after cleanup: got (- before, + now)\n%s\nwant it closed, without penk0", difference(before, now))
	}
	w.laptop.start(t)
	w.laptop.wantDirect(t, "direct by the kernel\n")
	w.laptop.kill(t)
	w.write(t, "kernel-laptop.json", "{")
	w.laptop.start(t)
	w.laptop.wantDirect(t, "direct by the kernel\n")
	if got := run(t, w.Laptop, "nft", "list", "chain", "inet", "penstock_penk0", "admit").stdout; !strings.Contains(got, `iifname "lan0"`) {
		t.Errorf("after a start: got\n%s\nwant lan0 closed", got)
	}
	w.laptop.stop(t, syscall.SIGTERM)
	w.laptop.must(t, "lockdown", "off", "--state", w.path("host.json"))
	wantState(t, w.Laptop, before)
}

// access --- lan0 [penstock, killed, and started again] laptop
//
// Its state of forwarding is lost, or is of another boot. The laptop is no router meanwhile, nor afterwards.
func TestALostStateOfForwardingOpensNothing(t *testing.T) {
	t.Parallel()
	boot := regexp.MustCompile(`"boot": "[^"]*"`)
	for _, row := range []struct {
		sentence string
		spoil    func(t *testing.T, w *world)
	}{
		{"lost", func(t *testing.T, w *world) {
			remove(t, w.path("kernel-laptop.json"), w.path("kernel-laptop.json.lock"))
		}},
		{"of another boot", func(t *testing.T, w *world) {
			w.write(t, "kernel-laptop.json", boot.ReplaceAllString(w.read(t, "kernel-laptop.json"), `"boot": "another"`))
		}},
	} {
		t.Run(row.sentence, func(t *testing.T) {
			t.Parallel()
			w := newDirectLaptop(t)
			before := settled(t, w.Laptop)
			w.direct(t)
			w.laptop.kill(t)
			row.spoil(t, w)
			w.laptop.start(t)
			w.laptop.wantDirect(t, "direct by the kernel\n")
			const stranger = "192.0.2.77"
			sh(t, w.Access, "ip route replace "+stranger+" via "+netlab.LaptopIPv4)
			run(t, w.Access, "nc", "-z", "-w", "1", stranger, "80")
			if w.laptop.saw(t, stranger) {
				t.Error("after a start a neighbour's packet for somebody else became a flow")
			}
			w.laptop.stop(t, syscall.SIGTERM)
			wantState(t, w.Laptop, before)

			w.laptop.start(t)
			w.laptop.wantDirect(t, "direct by the kernel\n")
			w.laptop.kill(t)
			row.spoil(t, w)
			w.laptop.must(t, "cleanup", "-c", w.laptop.config)
			wantState(t, w.Laptop, before)
		})
	}
}

// internet --- [penstock, killed, in a container that is made anew] gateway --- intranet
func TestAGatewayMadeAnewOpensNothing(t *testing.T) {
	t.Parallel()
	w := newKernelWorld(t)
	before := settled(t, w.Gateway)
	w.byKernel(t)
	w.gateway.kill(t)
	remove(t, w.path("state"))
	w.gateway.start(t)
	w.gateway.wantDirect(t, "direct by the kernel")
	w.crosses(t, false)
	w.gateway.stop(t, syscall.SIGTERM)
	w.crosses(t, false)
	wantState(t, w.Gateway, before)
}

// remove removes files and folders, which must be there.
func remove(t *testing.T, paths ...string) {
	t.Helper()
	for _, p := range paths {
		if _, err := os.Stat(p); err != nil {
			t.Fatal(err)
		}
		if err := os.RemoveAll(p); err != nil {
			t.Fatal(err)
		}
	}
}

// laptop, with an interface that comes, and gets another name
func TestAnInterfaceThatIsRenamedStaysClosed(t *testing.T) {
	t.Parallel()
	w := newDirectLaptop(t)
	w.direct(t)
	read := func(name string) string {
		return strings.TrimSpace(run(t, w.Laptop, "cat", "/proc/sys/net/ipv4/conf/"+name+"/forwarding", "/proc/sys/net/ipv6/conf/"+name+"/force_forwarding").stdout)
	}
	sh(t, w.Laptop, "ip link add usb0 type veth peer name usb9; ip link set usb9 up; ip link set usb0 up")
	eventually(t, "the interface forwards", func() error {
		if got := read("usb0"); !strings.HasPrefix(got, "1") {
			return errors.New(got)
		}
		return nil
	})
	sh(t, w.Laptop, "ip link set usb0 down; ip link set usb0 name enx1; ip link set enx1 up")
	eventually(t, "it is closed by its new name", func() error {
		if got := run(t, w.Laptop, "nft", "list", "chain", "inet", "penstock_penk0", "admit").stdout; !strings.Contains(got, `iifname "enx1"`) {
			return errors.New(got)
		}
		return nil
	})
	w.laptop.stop(t, syscall.SIGTERM)
	if got := read("enx1"); strings.Contains(got, "1") {
		t.Errorf("after the stop it forwards: %q", got)
	}
}

// laptop [pen0 -> penstock -> penk0 -> kernel; penstock -> penk51820 -> kernel] --- internet
func TestALaptopAndAGatewayOnOneHostForward(t *testing.T) {
	t.Parallel()
	for _, first := range []string{"the laptop", "the gateway"} {
		t.Run(first+" comes first", func(t *testing.T) {
			t.Parallel()
			w := newDirectLaptop(t)
			w.edit(t, "gateway.yaml", "include:", "state_dir: "+w.path("state")+"\ninclude:")
			if first == "the laptop" {
				w.direct(t)
			}
			w.gateway = start(t, w.Laptop, w.path("gateway.yaml"))
			w.gateway.wantDirect(t, "direct by the kernel\n")
			if first != "the laptop" {
				w.direct(t)
			}
			attempt{"", fetchPublic, isPublic, nil}.on(t, w.Laptop)
			for _, table := range []string{"penstock_penk51820", "penstock_penk0"} {
				eventually(t, "later probes come through, too", func() error {
					if out := run(t, w.Laptop, "nft", "list", "chain", "inet", table, "leave").stdout; !counted(out) {
						return errors.New(out)
					}
					return nil
				})
			}
			attempt{"", fetchPublic, isPublic, nil}.on(t, w.Laptop)
			w.laptop.wantDirect(t, "direct by the kernel\n")
			w.gateway.wantDirect(t, "direct by the kernel\n")
		})
	}
}

// counted reports whether each rule of a chain has counted more than one packet.
func counted(chain string) bool {
	return strings.Contains(chain, " packets ") && !strings.Contains(chain, " packets 0 ") && !strings.Contains(chain, " packets 1 ")
}

// [penstock -> penk0, deleted] laptop --- internet
func TestALaptopWithoutItsSecondTUNUsesSockets(t *testing.T) {
	t.Parallel()
	w := newDirectLaptop(t)
	w.direct(t)
	attempt{"", fetchPublic, isPublic, nil}.on(t, w.Laptop)
	sh(t, w.Laptop, "ip link delete penk0")
	w.laptop.wantDirect(t, "direct by sockets: the TUN penk0 ")
	attempt{"", fetchPublic, isPublic, nil}.on(t, w.Laptop)
}

// laptop [pen0 -> penstock -> penk0 -> kernel] lan0 --- access  \
//
//	lan1 --- access2 --- internet
//
// A flow lives on where its address does, and is reset where it does not.
func TestDirectFlowsOfALaptopThatMoves(t *testing.T) {
	t.Parallel()
	w := newDirectLaptop(t)
	w.direct(t)
	serve(t, w.Internet, publicIPv4+":5001", func(c *net.TCPConn) { io.Copy(c, c) })
	echo := func(c net.Conn, within time.Duration) error {
		if err := c.SetDeadline(time.Now().Add(within)); err != nil {
			t.Fatal(err)
		}
		if _, err := c.Write([]byte("x")); err != nil {
			return err
		}
		_, err := io.ReadFull(c, make([]byte, 1))
		return err
	}
	c := dial(t, w.Laptop, "tcp", publicIPv4+":5001")
	if err := echo(c, patience); err != nil {
		t.Fatal(err)
	}
	w.laptop.carried(t, publicIPv4+":5001", inLine)
	change := func(from, to netlab.Uplink) {
		t.Helper()
		if err := errors.Join(w.Disconnect(from), w.Connect(to, 0)); err != nil {
			t.Fatal(err)
		}
	}
	home, other := w.Uplinks[0], w.Uplinks[0]
	other.Addrs = []netip.Prefix{netip.MustParsePrefix("192.168.50.11/24"), netip.MustParsePrefix("fd50::11/64")}
	change(home, home)
	if err := echo(c, patience); err != nil {
		t.Errorf("after the link was down and up: %v", err)
	}
	for _, row := range []struct {
		sentence string
		from, to netlab.Uplink
	}{{"another address", home, other}, {"another network", other, w.Uplinks[1]}} {
		change(row.from, row.to)
		eventually(t, row.sentence+": a reset", func() error { // the kernel forgets connections of an address that is gone when it has time
			if err := echo(c, patience); !errors.Is(err, syscall.ECONNRESET) && !errors.Is(err, syscall.EPIPE) {
				return fmt.Errorf("got %v", err)
			}
			return nil
		})
		eventually(t, row.sentence+": a new flow", func() error {
			if r := run(t, w.Laptop, "sh", "-c", fetchPublic+" -sSk --max-time 2"); r.stdout != isPublic {
				return fmt.Errorf("got %s", r)
			}
			return nil
		})
		c = dial(t, w.Laptop, "tcp", publicIPv4+":5001")
		if err := echo(c, patience); err != nil {
			t.Fatal(err)
		}
	}
}
