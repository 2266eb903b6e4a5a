package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
	"sync"
	"time"
)

// requestSize is the size of a request on an open connection, and of its answer: the echo of it.
const requestSize = 1024

// keepAliveResult is what was asked and answered on open connections.
type keepAliveResult struct {
	Answered int
	Seconds  float64
	Broken   int    // connections that ended before the time was over
	Why      string // the first of them
}

// keepsAlive measures requests per second on connections that stay open. Each waits for its answer before the next request.
func keepsAlive(name string, connections int) func(context.Context, *options, *world, *table) error {
	return func(ctx context.Context, o *options, w *world, t *table) error {
		var r keepAliveResult
		did, err := w.during(ctx, o, name, func() (err error) {
			r, err = w.keepAlive(ctx, connections, o.seconds())
			return err
		})
		if err != nil {
			return err
		}
		var notes []string
		if r.Broken > 0 {
			notes = append(notes, fmt.Sprintf("%d broken of %d: %s", r.Broken, connections, r.Why))
		}
		if len(w.processes) > 0 {
			notes = append(notes, did.each(r.Answered))
		}
		t.add(row{path: w.path, measure: name, value: float64(r.Answered) / r.Seconds, unit: "1/s", note: strings.Join(notes, "; ")})
		return nil
	}
}

// keepAlive asks for some seconds on open connections of the laptop.
func (w *world) keepAlive(ctx context.Context, connections, seconds int) (r keepAliveResult, err error) {
	ctx, cancel := context.WithTimeout(ctx, time.Duration(seconds+20)*time.Second)
	defer cancel()
	stop, err := w.echo(ctx)
	if err != nil {
		return r, err
	}
	defer stop()
	cmd, err := self(ctx, w.Laptop, roleKeepAlive, fmt.Sprintf("%s:%d", w.path.server, echoPort), strconv.Itoa(connections), strconv.Itoa(seconds))
	if err != nil {
		return r, err
	}
	out, err := cmd.Output()
	if err != nil {
		return r, err
	}
	return r, json.Unmarshal(out, &r)
}

// askOften opens connections, and then asks on all of them for a time.
func askOften(address string, connections int, length time.Duration) (r keepAliveResult, err error) {
	var open []net.Conn
	defer func() {
		for _, c := range open {
			c.Close()
		}
	}()
	for range connections {
		c, err := exchange(address, requestSize)
		if c != nil {
			open = append(open, c)
		}
		if err != nil {
			return r, fmt.Errorf("connection %d: %w", len(open), err)
		}
	}
	var mu sync.Mutex // guards r
	var wg sync.WaitGroup
	start := time.Now()
	for _, c := range open {
		wg.Go(func() {
			n, err := askUntil(c, start.Add(length))
			mu.Lock()
			defer mu.Unlock()
			r.Answered += n
			if err == nil {
				return
			}
			r.Broken++
			if r.Why == "" {
				r.Why = err.Error()
			}
		})
	}
	wg.Wait()
	r.Seconds = time.Since(start).Seconds()
	return r, nil
}

// askUntil asks on a connection, and returns how often it was answered.
func askUntil(c net.Conn, end time.Time) (answered int, err error) {
	if err := c.SetDeadline(end.Add(hungLast)); err != nil {
		return 0, err
	}
	buf := make([]byte, requestSize)
	for time.Now().Before(end) {
		if _, err := c.Write(buf); err != nil {
			return answered, err
		}
		if _, err := io.ReadFull(c, buf); err != nil {
			return answered, err
		}
		answered++
	}
	return answered, nil
}
