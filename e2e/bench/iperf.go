package main

import (
	"context"
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"time"
)

// iperfRun is one run of iperf3 from the laptop to the path's server.
type iperfRun struct {
	streams int
	down    bool
	seconds int
}

// iperfResult is what arrived.
type iperfResult struct {
	bits        float64 // per second
	sent        float64 // bytes, including the warm-up
	retransmits int
}

func (w *world) iperf(ctx context.Context, r iperfRun) (iperfResult, error) {
	const port = "5201"
	ctx, cancel := context.WithTimeout(ctx, time.Duration(r.seconds+20)*time.Second)
	defer cancel()
	server := w.host().Command(ctx, "iperf3", "-s", "-1", "-B", w.path.server, "-p", port, "--forceflush")
	var heard transcript
	server.Stdout, server.Stderr = &heard, &heard
	if err := server.Start(); err != nil {
		return iperfResult{}, err
	}
	defer func() {
		server.Process.Kill()
		server.Wait()
	}()
	for !strings.Contains(heard.String(), "listening") {
		if ctx.Err() != nil {
			return iperfResult{}, fmt.Errorf("iperf3 server is not listening: %s", heard.String())
		}
		time.Sleep(5 * time.Millisecond)
	}
	args := []string{"-c", w.path.server, "-p", port, "-J", "-t", strconv.Itoa(r.seconds), "-P", strconv.Itoa(r.streams), "-O", "1"}
	if r.down {
		args = append(args, "-R")
	}
	out, err := w.Laptop.Command(ctx, "iperf3", args...).Output()
	var report struct {
		Error     string
		Intervals []struct {
			Sum struct{ Bytes float64 }
		}
		End struct {
			Sent     struct{ Retransmits int } `json:"sum_sent"`
			Received struct {
				BitsPerSecond float64 `json:"bits_per_second"`
			} `json:"sum_received"`
		}
	}
	if jsonErr := json.Unmarshal(out, &report); jsonErr != nil || report.Error != "" || err != nil {
		return iperfResult{}, fmt.Errorf("iperf3 %s: %v %s", strings.Join(args, " "), err, report.Error)
	}
	result := iperfResult{bits: report.End.Received.BitsPerSecond, retransmits: report.End.Sent.Retransmits}
	for _, i := range report.Intervals {
		result.sent += i.Sum.Bytes
	}
	return result, nil
}
