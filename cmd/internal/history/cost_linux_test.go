package history

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"penstock/cmd/internal/control"
	"penstock/cmd/internal/history/database"
)

// BenchmarkWrite is what the writer does with batches of 5,000, and how much more of the processors that takes than to insert as many bare
// rows of the same columns with one prepared statement.
func BenchmarkWrite(b *testing.B) {
	const each = 5000
	f := begin(b, Config{})
	w, ctx := hands(b, f), b.Context()
	bareDB, bareConn, err := database.Open(ctx, filepath.Join(b.TempDir(), "bare.db"), f.config.MaxSize)
	if err != nil {
		b.Fatal(err)
	}
	defer bareDB.Close()
	defer bareConn.Close()
	if _, err := bareConn.ExecContext(ctx, "CREATE TABLE bare (id INTEGER PRIMARY KEY, end, how, client, place, tx, rx, rest)"); err != nil {
		b.Fatal(err)
	}
	insert, err := bareConn.PrepareContext(b.Context(), "INSERT INTO bare VALUES (?, ?, ?, ?, ?, ?, ?, ?)")
	if err != nil {
		b.Fatal(err)
	}
	next, id := traffic(), 0
	var writing, bare, spent time.Duration
	b.ReportAllocs()
	for b.Loop() {
		b.StopTimer()
		list := make([]control.Record, each)
		for i := range list {
			list[i] = next(noon.Add(time.Duration(id+i) * 200 * time.Microsecond))
		}
		spent = processorTime(b)
		b.StartTimer()
		w.work(ctx, list)
		b.StopTimer()
		writing += processorTime(b) - spent
		spent = processorTime(b)
		if _, err := bareConn.ExecContext(ctx, "BEGIN"); err != nil {
			b.Fatal(err)
		}
		for i := range each {
			id++
			if _, err := insert.Exec(id, noon.UnixMilli()+int64(id)/5, i%100, i%200, i*7919%30000, i, i*1000, "0123456789abcdef"); err != nil {
				b.Fatal(err)
			}
		}
		if _, err := bareConn.ExecContext(ctx, "COMMIT"); err != nil {
			b.Fatal(err)
		}
		bare += processorTime(b) - spent
		b.StartTimer()
	}
	if _, used, err := w.size(ctx); err == nil {
		b.ReportMetric(float64(used)/float64(id), "disk-B/record")
	}
	b.ReportMetric(writing.Seconds()/bare.Seconds(), "x-bare")
	b.ReportMetric(float64(bare.Nanoseconds())/float64(id), "bare-ns/record")
	b.ReportMetric(float64(writing.Nanoseconds())/float64(id), "cpu-ns/record")
}

// TestFiveThousandASecond prints which share of a core the writer uses, over half a minute with PENSTOCK_SOAK=1.
func TestFiveThousandASecond(t *testing.T) {
	const each = 5000
	seconds := 1
	if soaking() {
		seconds = 30
	}
	resident := func() string {
		text, _ := os.ReadFile("/proc/self/status")
		_, after, _ := strings.Cut(string(text), "VmRSS:")
		line, _, _ := strings.Cut(after, "\n")
		return strings.TrimSpace(line)
	}
	run := func(put func(control.Record)) time.Duration {
		next, before := traffic(), processorTime(t)
		tick := time.NewTicker(10 * time.Millisecond)
		defer tick.Stop()
		for range seconds * 100 {
			<-tick.C
			for range each / 100 {
				put(next(time.Now()))
			}
		}
		return processorTime(t) - before
	}
	without := resident()
	making := run(func(control.Record) {})
	f := begin(t, Config{MaxSize: 16 << 20}) // so small that old records are removed as fast as others come
	all := run(f.Put)
	f.flush(t)
	t.Logf("%d records a second, the oldest removed for them: %.1f %% of a core, without making them; resident %s, before %s; %d lost", each,
		100*(all-making).Seconds()/float64(seconds), resident(), without, f.lost())
	f.Close()
	f = begin(t, Config{})
	all = run(f.Put)
	f.flush(t)
	t.Logf("%d records a second, none removed: %.1f %% of a core; resident %s; %d lost", each, 100*(all-making).Seconds()/float64(seconds), resident(), f.lost())
	if !soaking() {
		return
	}
	time.Sleep(2*tidyEvery + 5*time.Second) // the writer frees memory in the first minute that is quiet
	t.Logf("two minutes later: resident %s", resident())
}

// processorTime is what the process has used.
func processorTime(b testing.TB) time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
