package stack

import (
	"context"
	"net"
	"testing"
)

// TestAKernelTakesDatagramsThatAreSentTogether sends them to a socket, through a TUN.
func TestAKernelTakesDatagramsThatAreSentTogether(t *testing.T) {
	done := make(chan struct{}, 2)
	inNamespace(t, Config{Handle: Waiting(func(_ context.Context, r *Request) {
		sendFlock(t, r)
		done <- struct{}{}
	})}, func(t *testing.T, _ *Stack) {
		for _, dst := range destinations {
			c, err := net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(addr(dst)))
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			readFlock(t, c)
			within(t, done)
		}
	})
}
