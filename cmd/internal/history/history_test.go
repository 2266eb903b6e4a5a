package history

import (
	"cmp"
	"context"
	"database/sql"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"go.uber.org/goleak"

	gocmp "github.com/google/go-cmp/cmp"

	"penstock/cmd/internal/control"
	"penstock/cmd/internal/history/database"
	"penstock/cmd/internal/history/text"
	"penstock/cmd/internal/logtest"
)

func TestMain(m *testing.M) {
	if file := os.Getenv("PENSTOCK_HISTORY_CHILD"); file != "" {
		writeUntilKilled(file)
	}
	goleak.VerifyTestMain(m)
}

// fixture is an open history and what it said.
type fixture struct {
	*Store
	said *logtest.Log
}

// begin opens a history, by default a new one that keeps everything.
func begin(t testing.TB, c Config) fixture {
	t.Helper()
	f := fixture{said: new(logtest.Log)}
	c.File = cmp.Or(c.File, filepath.Join(t.TempDir(), "history.db"))
	c.Keep, c.MaxSize = cmp.Or(c.Keep, 10*365*24*time.Hour), cmp.Or(c.MaxSize, 256<<20)
	c.Names, c.Clients = cmp.Or(c.Names, "full"), cmp.Or(c.Clients, "full")
	c.readWait = cmp.Or(c.readWait, 5*time.Minute) // a sum over hundreds of spans of one record each takes seconds under the race detector
	c.Metrics, c.Log = NewMetrics(prometheus.NewRegistry()), slog.New(slog.NewTextHandler(f.said, nil))
	var err error
	if f.Store, err = Open(c); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	eventually(t, "the file is open, or cannot be", func() bool { // Open does not wait for long
		why := f.readers.Reason()
		return why == nil || !strings.Contains(why.Error(), "not open yet")
	})
	return f
}

// lost is how many records are missing.
func (f fixture) lost() (n int) {
	for _, reason := range []string{"queue", "disk", "file", "stop"} {
		n += int(testutil.ToFloat64(f.metrics.dropped.WithLabelValues(reason)))
	}
	return n
}

// flush waits until everything is written or lost.
func (f fixture) flush(t testing.TB) {
	t.Helper()
	poke(f.full)
	eventually(t, "the queue is empty", func() bool {
		f.mu.Lock()
		defer f.mu.Unlock()
		if len(f.queue) > 0 {
			poke(f.full)
		}
		return f.count == 0
	})
}

// eventually waits until ok, for twenty seconds at most.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("after 20 s still not: %s", what)
		}
	}
}

// all returns all records that a filter selects, newest first, read in pages.
func (f fixture) all(t testing.TB, filter control.RecordFilter, limit int) (list []control.Record) {
	t.Helper()
	for before := int64(0); ; {
		page, err := f.Records(t.Context(), control.RecordQuery{RecordFilter: filter, Before: before, Limit: limit})
		if err != nil {
			t.Fatal(err)
		}
		list = append(list, page.Records...)
		if !page.More {
			return list
		}
		if before > 0 && page.Next >= before || page.Next < 1 {
			t.Fatalf("the page before %d: got %d as the next, which is no progress", before, page.Next)
		}
		before = page.Next
	}
}

var noon = time.Date(2026, 11, 29, 12, 0, 0, 0, time.UTC)

// someRecord is a record of some time before noon, with a bit of everything.
func someRecord(r *rand.Rand, within time.Duration) control.Record {
	end := noon.Add(-rand.N(within)).Truncate(time.Millisecond)
	pick := func(list ...string) string { return list[r.IntN(len(list))] }
	peer := pick("ana", "bob", "")
	src := pick("10.77.0.2", "10.77.0.3", "fd77::3")
	host := pick("", "a.example", "www.a.example", "xa.example", "b.test", "100%_sure.test", "tracker.ads.test")
	verdict, rule, category := pick("direct", "via", "block", "drop", "dns"), pick("rest", "no-ads", "lan"), ""
	if rule == "no-ads" {
		category = pick("ads", "gambling")
	}
	if r.IntN(2) == 0 {
		return control.Record{Question: &control.Question{
			Proto: "dns", Src: text.Join(src, 5353), Peer: peer, Host: cmp.Or(host, "c.test"), Type: pick("A", "AAAA"), Verdict: verdict, Rule: rule, Category: category,
			Decided: pick("", cmp.Or(host, "c.test"), "cname.test"), Result: pick("ok", "blocked"), Rcode: pick("NOERROR", ""), Answers: [][]string{nil, {"192.0.2.0"}, {"2001:db8::", "192.0.2.1"}}[r.IntN(3)],
			Upstream: pick("main", ""), Cache: pick("hit", "miss"), Start: end.Add(-time.Duration(r.IntN(100000)) * time.Microsecond), End: end,
		}}
	}
	return control.Record{Flow: &control.Flow{
		ID: fmt.Sprint(r.IntN(1e6)), Proto: pick("tcp", "udp", "icmp"), Src: text.Join(src, uint64(r.IntN(65536))), Dst: text.Join(pick("192.0.2.7", "198.51.100.9", "2001:db8::7"), 443),
		Peer: peer, Host: host, HostSource: pick("dns", "sni"), Verdict: verdict, Rule: rule, Category: category, Via: pick("", "corp"), Datapath: pick("", "terminated"),
		TxBytes: r.Uint64N(1e6), RxBytes: r.Uint64N(1e12), TxPkts: r.Uint64N(1000), RxPkts: r.Uint64N(1000), Start: end.Add(-time.Duration(r.IntN(1e9)) * time.Microsecond), End: end,
		Reason: pick("", "trusted network"), Generation: r.Uint64N(5),
	}}
}

// naive tells whether a filter selects a record, as its documentation says.
func naive(f control.RecordFilter, r control.Record) bool {
	kind, host, peer, src, dst, verdict, rule, category, end := "flow", "", "", "", "", "", "", "", time.Time{}
	if q := r.Question; q != nil {
		kind, host, peer, src, verdict, rule, category, end = "question", q.Host, q.Peer, q.Src, q.Verdict, q.Rule, q.Category, q.End
	} else {
		x := r.Flow
		host, peer, src, dst, verdict, rule, category, end = x.Host, x.Peer, x.Src, x.Dst, x.Verdict, x.Rule, x.Category, x.End
	}
	srcAddr, _ := text.Split(src)
	dstAddr, _ := text.Split(dst)
	has := func(s string) bool { return strings.Contains(strings.ToLower(s), strings.ToLower(f.Text)) }
	return (f.Kind == "" || f.Kind == kind) && (f.Since.IsZero() || !end.Before(f.Since)) && (f.Until.IsZero() || end.Before(f.Until)) &&
		(!f.Blocked || verdict == "block" || verdict == "drop") && (f.Client == "" || f.Client == cmp.Or(peer, srcAddr)) &&
		(f.Host == "" || host == f.Host || strings.HasSuffix(host, "."+f.Host)) && (f.Rule == "" || f.Rule == rule) && (f.Category == "" || f.Category == category) &&
		(f.Text == "" || has(host) || has(peer) || has(srcAddr) || has(dstAddr) || has(rule) || has(category))
}

func someFilter(r *rand.Rand, within time.Duration) (f control.RecordFilter) {
	set := func(to *string, list ...string) {
		if r.IntN(4) == 0 {
			*to = list[r.IntN(len(list))]
		}
	}
	set(&f.Kind, "flow", "question")
	set(&f.Text, "A.EX", "%_", "192.0", "ana", "ads", "nothing", ":")
	set(&f.Client, "ana", "10.77.0.2", "fd77::3", "nobody")
	set(&f.Host, "a.example", "example", "www.a.example", "test", "nowhere")
	set(&f.Rule, "rest", "no-ads", "none")
	set(&f.Category, "ads", "none")
	f.Blocked = r.IntN(4) == 0
	if r.IntN(2) == 0 {
		f.Since = noon.Add(-rand.N(within)).Truncate(time.Duration(1+r.IntN(2)*3599) * time.Second)
	}
	if r.IntN(2) == 0 {
		f.Until = noon.Add(-rand.N(within)).Truncate(time.Duration(1+r.IntN(2)*3599) * time.Second)
	}
	return f
}

// local makes times comparable.
var local = gocmp.Comparer(func(a, b time.Time) bool { return a.Equal(b) })

func TestRecordsAndTotalsAreWhatANaiveCountFinds(t *testing.T) {
	for _, row := range []struct {
		name    string
		records int
		within  time.Duration
		ordered bool
		page    time.Duration // for how long a page is searched; 0: as long as always
	}{
		{"records that come in any order have spans of their own", 600, 30 * time.Hour, false, 0}, // each span costs a query
		{"records that come in order share spans", 2000, 5 * time.Hour, true, 0},
		{"all in one span, which is not listed yet", 2000, time.Minute, true, 0},
		{"a page ends after each span", 2000, 5 * time.Hour, true, time.Nanosecond},
	} {
		t.Run(row.name, func(t *testing.T) { testNaively(t, row.records, row.within, row.ordered, row.page) })
	}
}

func testNaively(t *testing.T, records int, within time.Duration, ordered bool, page time.Duration) {
	r := rand.New(rand.NewPCG(1, 2))
	f := begin(t, Config{pageTime: page})
	var all []control.Record
	for range records {
		all = append(all, someRecord(r, within))
	}
	if ordered {
		slices.SortStableFunc(all, func(a, b control.Record) int { return endOf(a).Compare(endOf(b)) })
	}
	for i := range all {
		f.Put(all[i])
		all[i].ID = int64(i + 1)
	}
	f.flush(t)
	if f.lost() > 0 {
		t.Fatalf("got %d lost, want none\n%s", f.lost(), f.said)
	}
	for i := range 150 {
		filter := someFilter(r, within)
		if i == 0 {
			filter = control.RecordFilter{}
		}
		var want []control.Record
		for _, one := range slices.Backward(all) {
			if naive(filter, one) {
				want = append(want, one)
			}
		}
		if diff := gocmp.Diff(want, f.all(t, filter, 100+r.IntN(1500)), local); diff != "" {
			t.Fatalf("records of %+v: want -, got +\n%.3000s", filter, diff)
		}
		by := []string{"hour", "day", "client", "host", "rule", "category", "verdict"}[r.IntN(7)]
		got, err := f.Totals(t.Context(), control.TotalsQuery{RecordFilter: filter, By: by, Limit: maxPage})
		if err != nil {
			t.Fatal(err)
		}
		if diff := gocmp.Diff(count(want, by), got.Totals, local); diff != "" {
			t.Fatalf("totals by %s of %+v: want -, got +\n%.3000s", by, filter, diff)
		}
	}
}

func endOf(r control.Record) time.Time {
	if r.Flow != nil {
		return r.Flow.End
	}
	return r.Question.End
}

// TestAPageSaysHowFarBackItWasSearched has a rare record in the oldest of many spans.
func TestAPageSaysHowFarBackItWasSearched(t *testing.T) {
	f := begin(t, Config{pageTime: time.Nanosecond})
	const spans = 20
	first := noon.Add(-spans * time.Hour)
	f.Put(flowAt(first, "rare.example"))
	for i := range spans {
		f.Put(flowAt(first.Add(time.Duration(i)*time.Hour), "other.example"))
	}
	f.flush(t)
	pages, found := 0, 0
	last := noon
	for query := (control.RecordQuery{RecordFilter: control.RecordFilter{Host: "rare.example"}}); ; pages++ {
		page, err := f.Records(t.Context(), query)
		if err != nil {
			t.Fatal(err)
		}
		if found += len(page.Records); !page.More {
			break
		}
		if !page.Searched.Before(last) || page.Next < 1 {
			t.Errorf("page %d: got searched back to %v, and %d as the next, want a time before %v", pages, page.Searched, page.Next, last)
		}
		query.Before, last = page.Next, page.Searched
	}
	if found != 1 || pages < 2 {
		t.Errorf("got %d records in %d pages, want 1 in several", found, pages)
	}
	f.Close()
	f = begin(t, Config{File: f.config.File, pageTime: time.Hour})
	page, err := f.Records(t.Context(), control.RecordQuery{RecordFilter: control.RecordFilter{Host: "rare.example"}})
	if err != nil || len(page.Records) != 1 || page.More || !page.Searched.IsZero() {
		t.Errorf("a page with time enough: got %+v, %v, want all in one", page, err)
	}
}

// count counts records one by one.
func count(list []control.Record, by string) []control.Total {
	sums := make(map[string]control.Total)
	for _, r := range list {
		var verdict, key string
		var end time.Time
		var tx, rx uint64
		if q := r.Question; q != nil {
			addr, _ := text.Split(q.Src)
			verdict, end = q.Verdict, q.End
			key = map[string]string{"client": cmp.Or(q.Peer, addr), "host": q.Host, "rule": q.Rule, "category": q.Category, "verdict": q.Verdict}[by]
		} else {
			x := r.Flow
			addr, _ := text.Split(x.Src)
			verdict, end, tx, rx = x.Verdict, x.End, x.TxBytes, x.RxBytes
			key = map[string]string{"client": cmp.Or(x.Peer, addr), "host": x.Host, "rule": x.Rule, "category": x.Category, "verdict": x.Verdict}[by]
		}
		var at time.Time
		switch by {
		case "hour":
			at = end.Truncate(time.Hour)
			key = at.Local().Format(time.RFC3339)
		case "day":
			l := end.Local()
			at = time.Date(l.Year(), l.Month(), l.Day(), 0, 0, 0, 0, time.Local)
			key = at.Format(time.DateOnly)
		}
		s := sums[key]
		s.Key, s.Time, s.TxBytes, s.RxBytes = key, at, s.TxBytes+tx, s.RxBytes+rx
		if verdict == "block" || verdict == "drop" {
			s.Blocked++
		} else {
			s.Allowed++
		}
		sums[key] = s
	}
	out := []control.Total{}
	for _, s := range sums {
		out = append(out, s)
	}
	slices.SortFunc(out, func(a, b control.Total) int {
		if by == "hour" || by == "day" {
			return a.Time.Compare(b.Time)
		}
		one := a.Key
		other := b.Key
		if by == "host" {
			one, other = text.Reversed(one), text.Reversed(other)
		}
		return cmp.Or(cmp.Compare(b.Allowed+b.Blocked, a.Allowed+a.Blocked), cmp.Compare(one, other))
	})
	return out
}

func TestPagesHaveEachRecordOnceWhileOthersAreWritten(t *testing.T) {
	f := begin(t, Config{})
	r := rand.New(rand.NewPCG(3, 4))
	for range 3000 {
		f.Put(someRecord(r, time.Hour))
	}
	f.flush(t)
	ctx, stop := context.WithCancel(t.Context())
	var writing sync.WaitGroup
	writing.Go(func() {
		r := rand.New(rand.NewPCG(5, 6))
		for ctx.Err() == nil {
			for range 100 {
				f.Put(someRecord(r, time.Hour))
			}
			poke(f.full)
			time.Sleep(time.Millisecond)
		}
	})
	var reading sync.WaitGroup
	for _, filter := range []control.RecordFilter{{}, {Client: "ana"}, {Blocked: true}, {Text: "example"}} {
		reading.Go(func() {
			seen := make(map[int64]bool)
			last := int64(1) << 62
			for _, one := range f.all(t, filter, 100) {
				if seen[one.ID] || one.ID >= last {
					t.Errorf("%+v: record %d comes twice, or after %d", filter, one.ID, last)
				}
				seen[one.ID], last = true, one.ID
			}
			n := 0
			for id := range seen {
				if id <= 3000 {
					n++
				}
			}
			if filter == (control.RecordFilter{}) && n != 3000 {
				t.Errorf("got %d of the 3000 records that were there, want all", n)
			}
		})
	}
	reading.Wait()
	stop()
	writing.Wait()
}

func TestAnHourHasSumsOfTheHostsWithMostRecords(t *testing.T) {
	const often, others = 50, 3 * hourNames
	f := begin(t, Config{})
	n := 0
	for range 2 {
		for i := range others {
			f.Put(flowAt(noon, fmt.Sprintf("host%d.example", i)))
			f.Put(flowAt(noon, fmt.Sprintf("often%d.example", i%often)))
			n += 2
		}
		f.Close() // the sums go into their table
		f = begin(t, Config{File: f.config.File})
	}
	got, err := f.Totals(t.Context(), control.TotalsQuery{By: "host", Limit: maxPage})
	if err != nil || len(got.Totals) > 2*hourNames+2 {
		t.Fatalf("got %d sums, %v, want %d at most", len(got.Totals), err, 2*hourNames+2)
	}
	sum := 0
	for _, s := range got.Totals {
		sum += int(s.Allowed)
		if strings.HasPrefix(s.Key, "often") && s.Allowed != 2*others/often {
			t.Errorf("%s: got %d, want %d", s.Key, s.Allowed, 2*others/often)
		}
	}
	if sum != n {
		t.Errorf("all sums: got %d, want %d", sum, n)
	}
}

func TestTheQueueIsBoundedByItsBytes(t *testing.T) {
	for _, name := range []string{"a.example", strings.Repeat("long.", 50) + "example"} {
		s := &Store{wake: make(chan struct{}, 1), full: make(chan struct{}, 1)}
		r := flowAt(noon, name)
		r.Flow.Reason = name
		fits := maxQueue / bytesOf(r)
		for range fits + 100 {
			s.Put(r)
		}
		if s.count != fits || s.bytes > maxQueue || fits < 15_000 {
			t.Errorf("%s: got %d records of %d bytes, want %d", name, s.count, s.bytes, fits)
		}
		list, _ := s.take()
		s.took(list[:fits/2])
		if s.Put(r); s.count != fits-fits/2+1 {
			t.Errorf("%s: got %d records when half of them are written, want one more than the rest", name, s.count)
		}
		s.took(list[fits/2:])
		list, _ = s.take()
		if s.took(list); s.count != 0 || s.bytes != 0 {
			t.Errorf("%s: got %d records of %d bytes at the end, want none", name, s.count, s.bytes)
		}
	}
}

// hands is a writer without a goroutine of its own.
func hands(t testing.TB, f fixture) *writer {
	t.Helper()
	f.Close()
	w := newWriter(f.Store)
	t.Cleanup(func() { w.close(context.WithoutCancel(t.Context())) })
	if err := w.open(t.Context()); err != nil {
		t.Fatal(err)
	}
	return w
}

func TestAfterABurstTheWriterHoldsNothing(t *testing.T) {
	f := begin(t, Config{})
	w := hands(t, f)
	next := traffic()
	minute := func(n int) {
		for range n {
			w.work(t.Context(), []control.Record{next(noon)})
		}
		w.minuteIsOver(t.Context())
	}
	held := func() int {
		return len(w.names.places.young) + len(w.names.clients.young) + len(w.names.hows.young) + len(w.pending) + cap(w.rows)
	}
	minute(quietMinute + 100)
	if held() == 0 {
		t.Error("a busy minute: got nothing remembered, want names and sums")
	}
	minute(quietMinute + 50)
	if held() == 0 {
		t.Error("a minute like the one before: got nothing remembered, want names and sums")
	}
	w.most = burst // the minutes before were busy, and the database is opened again
	conn := w.conn
	minute(3) // there is always some traffic
	if w.conn == nil || w.conn == conn {
		t.Errorf("after a burst: got the connection %p, want another than %p", w.conn, conn)
	}
	if n := held(); n > 0 {
		t.Errorf("a quiet minute: got %d things held, want none", n)
	}
	minute(4)
	if n, err := rawExec(t, f, "SELECT sum(n) FROM total WHERE kind < 4"); n != 2*quietMinute+157 || err != nil {
		t.Errorf("got %d records in the sums, %v, want %d", n, err, 2*quietMinute+157)
	}
}

// rawExec runs a query with a connection of its own, and returns the number that it returns.
func rawExec(t testing.TB, f fixture, query string) (n int, err error) {
	t.Helper()
	db, err := sql.Open("sqlite", database.Source(f.config.File))
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	if !strings.HasPrefix(query, "SELECT") {
		_, err = db.ExecContext(t.Context(), query)
		return 0, err
	}
	return n, db.QueryRowContext(t.Context(), query).Scan(&n)
}
