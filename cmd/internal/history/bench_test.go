package history

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
	"time"

	"penstock/cmd/internal/control"
)

// BenchmarkPut is what the end of a flow waits for: its record goes into the queue.
func BenchmarkPut(b *testing.B) {
	f := begin(b, Config{})
	r := flowAt(noon, "a.example")
	b.ReportAllocs()
	for b.Loop() {
		f.Put(r)
	}
}

// traffic makes records like those of a busy gateway: few hosts have most of the flows.
func traffic() func(end time.Time) control.Record {
	r := rand.New(rand.NewPCG(1, 2))
	hosts, peers := rand.NewZipf(r, 1.1, 8, 50000), rand.NewZipf(r, 1.05, 8, 200)
	return func(end time.Time) control.Record {
		host := hosts.Uint64()
		name, peer := fmt.Sprintf("host%d.example", host), fmt.Sprintf("peer%d", peers.Uint64())
		verdict, rule, category := "direct", "rest", ""
		if host%7 == 3 {
			verdict, rule, category = "block", "no-ads", "ads"
		}
		if r.IntN(10) < 6 {
			return control.Record{Question: &control.Question{Proto: "dns", Src: "10.77.0.9:5353", Peer: peer, Host: name, Type: "A", Verdict: verdict, Rule: rule, Category: category,
				Result: "answered", Rcode: "NOERROR", Answers: []string{"192.0.2.7"}, Upstream: "main", Cache: "miss", Start: end.Add(-20 * time.Millisecond), End: end}}
		}
		return control.Record{Flow: &control.Flow{ID: fmt.Sprint(r.IntN(1e6)), Proto: "tcp", Src: fmt.Sprintf("10.77.0.9:%d", 32768+r.IntN(28000)), Dst: fmt.Sprintf("198.51.%d.%d:443", host>>8&255, host&255),
			Peer: peer, Host: name, HostSource: "sni", Verdict: verdict, Rule: rule, Category: category, Datapath: "terminated", TxBytes: r.Uint64N(5000), RxBytes: r.Uint64N(500000),
			TxPkts: r.Uint64N(50), RxPkts: r.Uint64N(400), Start: end.Add(-time.Duration(r.IntN(60000)) * time.Millisecond), End: end, Generation: 3}}
	}
}

// soaking reports whether figures are wanted, whatever time they take.
func soaking() bool { return os.Getenv("PENSTOCK_SOAK") == "1" }

// TestAPageOfTenMillion prints how long a page takes, and how much longer than 200 bare rows. With PENSTOCK_SOAK=1 there are ten million
// records, which takes minutes, and otherwise few.
func TestAPageOfTenMillion(t *testing.T) {
	written, copies := 2*batchSize, 3 // the writer makes some, and SQL copies them, an hour later each time
	if soaking() {
		written, copies = 200_000, 50
	}
	f := begin(t, Config{File: filepath.Join(t.TempDir(), "history.db"), MaxSize: 8 << 30})
	next := traffic()
	for i := range written {
		r := next(noon.Add(time.Duration(i) * 10 * time.Millisecond))
		switch i % 1000 { // the worst case: each span has records of both, and no record is both
		case 300:
			r = flowAt(noon.Add(time.Duration(i)*10*time.Millisecond), "rare.example")
			r.Flow.Peer = "rare"
		case 600:
			r = flowAt(noon.Add(time.Duration(i)*10*time.Millisecond), "rare.example")
			r.Flow.Rule = "rare"
		}
		f.Put(r)
		if i%batchSize == batchSize-1 {
			f.flush(t)
		}
	}
	f.flush(t)
	f.Close()
	for _, text := range []string{
		fmt.Sprintf(`WITH RECURSIVE k (k) AS (SELECT 1 UNION ALL SELECT k + 1 FROM k WHERE k < %d - 1)
			INSERT INTO record SELECT id + k * %d, end + k * 3600000, how, client, place, tx, rx, rest FROM k, record r`, copies, written),
		fmt.Sprintf(`WITH RECURSIVE k (k) AS (SELECT 1 UNION ALL SELECT k + 1 FROM k WHERE k < %d - 1)
			INSERT INTO span SELECT first + k * %d, last + k * %d, begin + k * 3600000, until + k * 3600000, listed FROM k, span`, copies, written, written),
		fmt.Sprintf(`WITH RECURSIVE k (k) AS (SELECT 1 UNION ALL SELECT k + 1 FROM k WHERE k < %d - 1)
			INSERT INTO total SELECT kind, hour + k * 3600000, key, n, tx, rx FROM k, total`, copies),
		fmt.Sprintf(`WITH RECURSIVE k (k) AS (SELECT 1 UNION ALL SELECT k + 1 FROM k WHERE k < %d - 1)
			INSERT INTO list SELECT first + k * %d, kind, key, at FROM k, list`, copies, written),
		fmt.Sprintf("UPDATE note SET value = %d WHERE name IN ('summed', 'id')", copies*written)} {
		start := time.Now()
		if _, err := rawExec(t, f, text); err != nil {
			t.Fatalf("%s: %v", text, err)
		}
		t.Logf("%v for %.40s", time.Since(start).Round(time.Second), text)
	}
	f = begin(t, f.config)
	if n, err := rawExec(t, f, "SELECT count(*) FROM record"); n != written*copies {
		t.Fatal(n, err)
	}
	bare := func() time.Duration {
		start := time.Now()
		if _, err := rawExec(t, f, "SELECT count(*) FROM (SELECT * FROM record ORDER BY id DESC LIMIT 200)"); err != nil {
			t.Fatal(err)
		}
		return time.Since(start)
	}
	for _, filter := range []control.RecordFilter{{}, {Blocked: true}, {Client: "peer3"}, {Client: "peer199"}, {Client: "peer3", Blocked: true}, {Host: "host7.example"}, {Host: "host49999.example"},
		{Rule: "no-ads"}, {Text: "st499"}, {Text: "example"}, {Text: "peer"}, {Client: "rare"}, {Client: "rare", Rule: "rare"}, {Kind: "question", Since: noon.Add(5 * time.Hour), Until: noon.Add(330 * time.Minute)}} {
		best, row := time.Hour, time.Hour
		n := 0
		for range 5 {
			start := time.Now()
			page, err := f.Records(t.Context(), control.RecordQuery{RecordFilter: filter})
			if err != nil {
				t.Errorf("%+v: %v", filter, err)
			}
			best, n, row = min(best, time.Since(start)), len(page.Records), min(row, bare())
		}
		t.Logf("a page of %d of %+v: %v, %.1f times a bare one of 200 rows", n, filter, best, best.Seconds()/row.Seconds())
	}
	for _, q := range []control.TotalsQuery{{By: "hour"}, {By: "host"}, {By: "client"}, {By: "rule", RecordFilter: control.RecordFilter{Since: noon.Add(40*time.Hour + 10*time.Minute)}}, {By: "host", RecordFilter: control.RecordFilter{Client: "peer3"}},
		{By: "host", RecordFilter: control.RecordFilter{Client: "rare"}}} {
		start := time.Now()
		_, err := f.Totals(t.Context(), q)
		t.Logf("sums %+v: %v, %v", q, time.Since(start), err)
	}
}
