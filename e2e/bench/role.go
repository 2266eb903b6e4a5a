package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"sync"
	"sync/atomic"
	"time"
)

// roleVar marks a process that was started by self.
const roleVar = "PENSTOCK_BENCH_ROLE"

// Roles, with the arguments that follow their address.
const (
	roleEcho           = "echo"
	roleConnect        = "connect"    // count, size, parallel
	roleKeepAlive      = "keep-alive" // connections, seconds
	roleHold           = "hold"       // count
	roleDatagramServer = "datagram-server"
	roleDatagramClient = "datagram-client" // 1 for down, size, milliseconds, rate
)

// play runs a role until it is finished.
func play(args []string) error {
	if len(args) < 2 {
		return errors.New("a role needs an address")
	}
	address := args[1]
	var numbers []int
	for _, a := range args[2:] {
		n, err := strconv.Atoi(a)
		if err != nil {
			return err
		}
		numbers = append(numbers, n)
	}
	switch {
	case args[0] == roleEcho:
		return serveEcho(address)
	case args[0] == roleConnect && len(numbers) == 3:
		return json.NewEncoder(os.Stdout).Encode(connectAll(address, series{count: numbers[0], size: numbers[1], parallel: numbers[2]}))
	case args[0] == roleKeepAlive && len(numbers) == 2:
		r, err := askOften(address, numbers[0], time.Duration(numbers[1])*time.Second)
		return errors.Join(err, json.NewEncoder(os.Stdout).Encode(r))
	case args[0] == roleHold && len(numbers) == 1:
		return holdAll(address, numbers[0])
	case args[0] == roleDatagramServer:
		return serveDatagrams(address)
	case args[0] == roleDatagramClient && len(numbers) == 4:
		t, err := askDatagrams(address, order{Down: numbers[0] == 1, Size: numbers[1], Time: time.Duration(numbers[2]) * time.Millisecond, Rate: numbers[3]})
		return errors.Join(err, json.NewEncoder(os.Stdout).Encode(t))
	}
	return fmt.Errorf("no such role: %v", args)
}

// serveEcho echoes what it receives, until it is killed.
func serveEcho(address string) error {
	l, err := net.Listen("tcp", address)
	if err != nil {
		return err
	}
	fmt.Println("listening")
	for {
		c, err := l.Accept()
		if err != nil {
			return err
		}
		go func() {
			defer c.Close()
			buf := make([]byte, 1024)
			for {
				n, err := c.Read(buf)
				if err != nil {
					return
				}
				if _, err := c.Write(buf[:n]); err != nil {
					return
				}
			}
		}()
	}
}

const (
	parallel = 32              // connections being made at a time, where a measure does not say
	hungLast = 5 * time.Second // a connection that takes longer counts as hung
)

// connectResult is the result of a series of connections.
type connectResult struct {
	Seconds      float64
	Hung, Failed int
	Why          string // the first failure
}

// series is a number of connections, made one after the other.
type series struct {
	count    int
	size     int // bytes that each sends and reads back
	parallel int // so many at a time
}

// connectAll makes a series of connections.
func connectAll(address string, s series) connectResult {
	var r connectResult
	var mu sync.Mutex // guards r
	eachParallel(s.count, s.parallel, func() {
		c, err := exchange(address, s.size)
		if err == nil {
			err = c.Close()
		}
		if err == nil {
			return
		}
		mu.Lock()
		defer mu.Unlock()
		if errors.Is(err, os.ErrDeadlineExceeded) {
			r.Hung++
		} else {
			r.Failed++
		}
		if r.Why == "" {
			r.Why = err.Error()
		}
	}, &r.Seconds)
	return r
}

// eachParallel calls do count times, with up to parallel calls at once, and measures the total time.
func eachParallel(count, parallel int, do func(), seconds *float64) {
	start := time.Now()
	var done atomic.Int64
	var wg sync.WaitGroup
	for range parallel {
		wg.Go(func() {
			for done.Add(1) <= int64(count) {
				do()
			}
		})
	}
	wg.Wait()
	*seconds = time.Since(start).Seconds()
}

// exchange makes a connection, sends size bytes and reads them back.
func exchange(address string, size int) (net.Conn, error) {
	c, err := (&net.Dialer{Timeout: hungLast}).Dial("tcp", address)
	if err != nil {
		return nil, err
	}
	if size == 0 {
		return c, nil
	}
	buf := make([]byte, size)
	if err := c.SetDeadline(time.Now().Add(hungLast)); err != nil {
		return c, err
	}
	if _, err := c.Write(buf); err != nil {
		return c, err
	}
	if _, err := io.ReadFull(c, buf); err != nil {
		return c, err
	}
	return c, c.SetDeadline(time.Time{})
}

// holdAll opens count connections, exchanges 1 KiB on each, reports that, and keeps them open until its input ends.
func holdAll(address string, count int) error {
	var mu sync.Mutex // guards below
	var conns []net.Conn
	var failed error
	var seconds float64
	eachParallel(count, parallel, func() {
		c, err := exchange(address, 1024)
		mu.Lock()
		defer mu.Unlock()
		if err != nil {
			failed = errors.Join(failed, err)
			return
		}
		conns = append(conns, c)
	}, &seconds)
	if failed != nil {
		return fmt.Errorf("%d of %d connections: %w", len(conns), count, failed)
	}
	fmt.Println("holding", count)
	io.Copy(io.Discard, os.Stdin)
	for _, c := range conns {
		c.Close()
	}
	return nil
}
