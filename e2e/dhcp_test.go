package e2e

import (
	"fmt"
	"strings"
	"syscall"
	"testing"
	"time"
)

// laptop [pen0 -> penstock, dhclient] lan0 --- [dnsmasq: option 121, router advertisements] access
func TestADHCPServerCannotPullTrafficOut(t *testing.T) {
	t.Parallel()
	dnsmasq, dhclient := program(t, "dnsmasq"), program(t, "dhclient")
	w := newWorld(t).up(t)
	defer chatter(t, w)()
	// What the server hands out: routes to the public sites and to the gateway's network, by way of itself. It does not ping an address to
	// see whether it is free, which would be a packet in clear.
	server := w.Access.Command(t.Context(), dnsmasq, "--no-daemon", "--conf-file=/dev/null", "--user=root", "--group=root", "--port=0",
		"--interface=lan", "--bind-interfaces", "--dhcp-range=192.168.50.100,192.168.50.110,2m", "--dhcp-authoritative", "--no-ping",
		"--dhcp-leasefile="+w.path("leases"), "--pid-file="+w.path("dnsmasq.pid"),
		"--dhcp-option=121,203.0.113.0/24,192.168.50.1,10.20.0.0/24,192.168.50.1,0.0.0.0/0,192.168.50.1",
		"--enable-ra", "--dhcp-range=fd50::,ra-only")
	var said transcript
	server.Stdout, server.Stderr = &said, &said
	if err := server.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		_ = server.Process.Signal(syscall.SIGTERM)
		_ = server.Wait()
		if t.Failed() {
			t.Logf("dnsmasq said:\n%s", said.String())
		}
	}()
	w.write(t, "dhclient.conf", "request subnet-mask, routers, rfc3442-classless-static-routes;\noption rfc3442-classless-static-routes code 121 = array of unsigned integer 8;\n")
	eventually(t, "the laptop has a lease with routes", func() error {
		r := run(t, w.Laptop, dhclient, "-4", "-1", "-v", "-cf", w.path("dhclient.conf"), "-lf", w.path("dhclient.leases"), "-pf", w.path("dhclient.pid"), "lan0")
		if r.code != 0 {
			return fmt.Errorf("dhclient: %s", r)
		}
		return nil
	})
	defer run(t, w.Laptop, "pkill", "-F", w.path("dhclient.pid"))
	routes := run(t, w.Laptop, "ip", "route", "show").stdout
	t.Logf("main table after the lease:\n%s", routes)
	if !strings.Contains(routes, "203.0.113.0/24 via 192.168.50.1") {
		t.Errorf("the lease's route to the public sites is not there; the test proves nothing:\n%s", routes)
	}
	time.Sleep(time.Second) // traffic that could leave
	if err := w.carriesOnce(patience); err != nil {
		t.Errorf("service is lost: %v", err)
	}
	w.works(t)
	w.nothingInClear(t)
}
