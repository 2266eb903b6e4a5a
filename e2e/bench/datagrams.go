package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"sync/atomic"
	"time"
)

// Datagrams are sent as fast as one thread can or at a rate, one per system call, and counted at the receiver. An order and its
// answer open the flow first, so that the measurement does not include the policy decision on the first packet.

// order is the request that opens a flow.
type order struct {
	Down bool // the server sends
	Size int  // of each datagram, in bytes
	Time time.Duration
	Rate int // datagrams per second; 0: as many as one thread can send
}

// tally is what one end has sent or received.
type tally struct {
	Sent, Received int
	Seconds        float64 // it took to send, or passed from the first to the last datagram received
}

const (
	datagramPort = 7778
	quiet        = 500 * time.Millisecond // after this long without a datagram, no more will come
	beat         = time.Millisecond       // a sender with a rate sends once in it
	late         = 5 * time.Millisecond   // what such a sender is too late for by more than this, it leaves out
	room         = 16 << 20               // bytes that wait for a receiver, so that it loses nothing while it does not run
)

// serveDatagrams carries out one order and reports its tally.
func serveDatagrams(address string) error {
	at, err := netip.ParseAddrPort(address)
	if err != nil {
		return err
	}
	c, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(at))
	if err != nil {
		return err
	}
	defer c.Close()
	if err := makeRoom(c, room); err != nil {
		return err
	}
	fmt.Println("listening")
	buf := make([]byte, 2048)
	var o order
	var client netip.AddrPort
	for o.Size == 0 {
		n, from, err := c.ReadFromUDPAddrPort(buf)
		if err != nil {
			return err
		}
		if json.Unmarshal(buf[:n], &o) != nil { // one of the flow before, late
			o = order{}
			continue
		}
		client = from
		if _, err := c.WriteToUDPAddrPort(buf[:n], client); err != nil {
			return err
		}
	}
	var t tally
	if o.Down {
		time.Sleep(100 * time.Millisecond) // time for the client to read the answer and start counting
		t, err = send(o, func(b []byte) error { _, err := c.WriteToUDPAddrPort(b, client); return err })
	} else {
		err = count(c, client, &t)
	}
	return errors.Join(err, json.NewEncoder(os.Stdout).Encode(t))
}

// askDatagrams sends one order and returns the tally.
func askDatagrams(address string, o order) (t tally, err error) {
	at, err := netip.ParseAddrPort(address)
	if err != nil {
		return t, err
	}
	c, err := net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(at))
	if err != nil {
		return t, err
	}
	defer c.Close()
	if err := makeRoom(c, room); err != nil {
		return t, err
	}
	text, err := json.Marshal(o)
	if err != nil {
		return t, err
	}
	answered := errors.New("not asked")
	for end := time.Now().Add(hungLast); answered != nil && time.Now().Before(end); {
		if _, err := c.Write(text); err != nil {
			return t, err
		}
		if err := c.SetReadDeadline(time.Now().Add(hungLast / 5)); err != nil {
			return t, err
		}
		_, answered = c.Read(make([]byte, 2048))
	}
	if answered != nil {
		return t, fmt.Errorf("no answer to the order: %w", answered)
	}
	if o.Down {
		return t, count(c, at, &t)
	}
	return send(o, func(b []byte) error { _, err := c.Write(b); return err })
}

// send sends until the order's time is over. If the kernel's buffers are full, it keeps trying.
func send(o order, one func([]byte) error) (t tally, err error) {
	b := make([]byte, o.Size)
	start := time.Now()
	defer func() { t.Seconds = time.Since(start).Seconds() }()
	due := 0.0
	for last := start; last.Sub(start) < o.Time; {
		if o.Rate > 0 {
			time.Sleep(beat - time.Since(last))
		}
		now := time.Now()
		if o.Rate > 0 {
			// A burst for all of the time that the sender did not run would be lost where queues are short.
			due += float64(o.Rate) * min(now.Sub(last), late).Seconds()
		} else {
			due = 64
		}
		last = now
		for ; due >= 1; due-- {
			if err := one(b); err != nil {
				return t, err
			}
			t.Sent++
		}
	}
	return t, nil
}

// count counts the datagrams of a sender until no more come.
func count(c *net.UDPConn, sender netip.AddrPort, t *tally) error {
	buf := make([]byte, 2048)
	var received atomic.Int64
	var first, last time.Time
	over := make(chan error, 1)
	go func() {
		for {
			_, from, err := c.ReadFromUDPAddrPort(buf)
			if err != nil {
				over <- err
				return
			}
			if from == sender {
				received.Add(1)
			}
		}
	}()
	// Read the clock in another goroutine: between reads it would slow them down.
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	seen := int64(0)
	start := time.Now()
	if err := c.SetReadDeadline(time.Time{}); err != nil {
		return err
	}
	for {
		select {
		case err := <-over:
			t.Received, t.Seconds = int(received.Load()), last.Sub(first).Seconds()
			if errors.Is(err, os.ErrDeadlineExceeded) {
				return nil
			}
			return err
		case now := <-tick.C:
			n := received.Load()
			switch {
			case n != seen:
				if seen == 0 {
					first = now
				}
				seen, last = n, now
			case seen > 0 && now.Sub(last) > quiet, seen == 0 && now.Sub(start) > hungLast:
				if err := c.SetReadDeadline(now); err != nil {
					return err
				}
			}
		}
	}
}

// datagrams carries out one order between the laptop and the path's server.
func (w *world) datagrams(ctx context.Context, o order) (client, server tally, err error) {
	ctx, cancel := context.WithTimeout(ctx, o.Time+20*time.Second)
	defer cancel()
	address := fmt.Sprintf("%s:%d", w.path.server, datagramPort)
	far, err := self(ctx, w.host(), roleDatagramServer, address)
	if err != nil {
		return client, server, err
	}
	pipe, err := far.StdoutPipe()
	if err != nil {
		return client, server, err
	}
	if err := far.Start(); err != nil {
		return client, server, err
	}
	defer func() {
		far.Process.Kill()
		far.Wait()
	}()
	said := bufio.NewReader(pipe)
	if _, err := said.ReadString('\n'); err != nil { // it reports that it is listening
		return client, server, fmt.Errorf("datagram server: %w", err)
	}
	down := 0
	if o.Down {
		down = 1
	}
	near, err := self(ctx, w.Laptop, roleDatagramClient, address, fmt.Sprint(down), fmt.Sprint(o.Size), fmt.Sprint(o.Time.Milliseconds()),
		fmt.Sprint(o.Rate))
	if err != nil {
		return client, server, err
	}
	out, err := near.Output()
	if err != nil {
		return client, server, fmt.Errorf("datagram client: %w", err)
	}
	if err := json.Unmarshal(out, &client); err != nil {
		return client, server, err
	}
	rest, err := io.ReadAll(said)
	if err != nil {
		return client, server, err
	}
	return client, server, json.Unmarshal(rest, &server)
}
