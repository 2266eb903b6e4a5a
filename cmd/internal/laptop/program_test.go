package laptop

import (
	"context"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"runtime"
	"testing"
	"time"

	"penstock/cmd/internal/config"
	"penstock/policy"
	"penstock/router/hostnet/program"
)

// programsOf finds the programs of a machine whose TUN has the address 127.0.0.1.
func programsOf(t testing.TB) *Programs {
	t.Helper()
	tun := &config.TUN{Address: []netip.Prefix{netip.MustParsePrefix("127.0.0.1/32")}}
	return &Programs{
		finder: program.New(), log: slog.New(slog.DiscardHandler), queue: make(chan shown, maxShown),
		tun: func() *config.TUN { return tun },
	}
}

// ownFlow is a flow of this test.
func ownFlow(t testing.TB) policy.Flow {
	t.Helper()
	c, err := net.Dial("udp4", "127.0.0.1:9")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return policy.Flow{Network: policy.UDP, Src: netip.MustParseAddrPort(c.LocalAddr().String()), Dst: netip.MustParseAddrPort("127.0.0.1:9")}
}

func TestDescribePrograms(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("programs are found on Linux only")
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	for _, row := range []struct {
		name, mode            string
		asked                 policy.Asked
		knows, judged, showed bool // the path: at once, by rules, later
	}{
		{"no rule asks", "rules", policy.Asked{}, false, false, false},
		{"a rule asks for the user", "rules", policy.Asked{UID: true}, true, false, false},
		{"a rule asks for the program", "rules", policy.Asked{Process: true}, true, true, true},
		{"no rule asks, and all are shown", "all", policy.Asked{}, false, false, true},
		{"a rule asks for the unit, and all are shown", "all", policy.Asked{Unit: true}, true, false, true},
	} {
		t.Run(row.name, func(t *testing.T) {
			p, f := programsOf(t), ownFlow(t)
			ctx, cancel := context.WithCancel(t.Context())
			over := make(chan error, 1)
			go func() { over <- p.Run(ctx) }()
			p.Describe(&f, row.asked, row.mode)
			if f.HasUID != row.knows || f.HasUID && f.UID != uint32(os.Getuid()) || row.judged && f.Process != self {
				t.Errorf("rules know uid %v %v, process %q", f.HasUID, f.UID, f.Process)
			}
			shows := func() bool { q := f.Sender.Program(); return q != nil && q.Path == self }
			for end := time.Now().Add(20 * time.Second); row.showed && !shows() && time.Now().Before(end); time.Sleep(time.Millisecond) {
			}
			if shows() != row.showed {
				t.Errorf("got %+v, want that the program is shown: %v", f.Sender.Program(), row.showed)
			}
			before := f.Sender
			p.Describe(&f, row.asked, row.mode)
			if f.Sender != before {
				t.Error("the flow is described again, and its program is looked up anew")
			}
			cancel()
			if err := <-over; err != nil {
				t.Error(err)
			}
		})
	}
}

// Who sends datagrams through our proxy has a socket to its association's relay, connected or not.
func TestDescribeWhoSendsDatagramsByProxy(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("programs are found on Linux only")
	}
	open, err := net.ListenPacket("udp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer open.Close()
	for _, address := range []string{"127.0.0.1:1080", "0.0.0.0:1080"} {
		p := programsOf(t)
		p.proxy, p.tun = &config.ProxyListen{Address: netip.MustParseAddrPort(address)}, func() *config.TUN { return nil }
		for name, src := range map[string]netip.AddrPort{"connected": ownFlow(t).Src, "open": netip.MustParseAddrPort(open.LocalAddr().String())} {
			f := policy.Flow{Network: policy.UDP, Src: src, Dst: netip.MustParseAddrPort("203.0.113.1:443")}
			p.Describe(&f, policy.Asked{UID: true}, "rules")
			if !f.HasUID || f.UID != uint32(os.Getuid()) {
				t.Errorf("proxy on %s, a socket that is %s: got uid %v %v, want %d", address, name, f.HasUID, f.UID, os.Getuid())
			}
		}
		p.finder.Close()
	}
}

func TestOtherSendersHaveNoProgram(t *testing.T) {
	p := programsOf(t)
	for name, change := range map[string]func(*policy.Flow){
		"a ping":                            func(f *policy.Flow) { f.Network = policy.ICMP },
		"another machine that we route for": func(f *policy.Flow) { f.Src = netip.MustParseAddrPort("192.0.2.7:5000") },
		"a socket that there is not":        func(f *policy.Flow) { f.Network, f.Src = policy.TCP, netip.MustParseAddrPort("127.0.0.1:1") },
	} {
		f := ownFlow(t)
		change(&f)
		p.Describe(&f, policy.Asked{UID: true, Process: true, Unit: true}, "rules")
		if f.HasUID || f.Process != "" || f.Unit != "" {
			t.Errorf("%s: got uid %v, process %q, unit %q; want nothing", name, f.HasUID, f.Process, f.Unit)
		}
	}
}

// What a flow costs whose program is only shown: nobody takes it out of the queue here, so most meet a full one.
func BenchmarkDescribeToShow(b *testing.B) {
	p, f := programsOf(b), ownFlow(b)
	b.ReportAllocs()
	for b.Loop() {
		f.Sender = nil
		p.Describe(&f, policy.Asked{}, "all")
	}
}

// What a flow costs if a rule asks for its unit.
func BenchmarkDescribeToJudge(b *testing.B) {
	p, f := programsOf(b), ownFlow(b)
	b.ReportAllocs()
	for b.Loop() {
		f.Sender, f.HasUID = nil, false
		p.Describe(&f, policy.Asked{UID: true}, "rules")
	}
}
