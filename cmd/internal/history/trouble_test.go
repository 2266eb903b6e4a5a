package history

import (
	"bufio"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"

	"penstock/cmd/internal/control"
	"penstock/cmd/internal/history/text"
)

// flowAt is a flow that ended at some time.
func flowAt(end time.Time, host string) control.Record {
	return control.Record{Flow: &control.Flow{ID: "7", Proto: "tcp", Src: "10.77.0.2:4000", Dst: "192.0.2.7:443", Peer: "ana", Host: host, Verdict: "direct", Rule: "rest",
		TxBytes: 1, RxBytes: 2, Start: end.Add(-time.Second), End: end}}
}

// writeUntilKilled is the child of TestAKilledWriterLosesOneBatchAtMost.
func writeUntilKilled(file string) {
	s, err := Open(Config{File: file, Keep: time.Hour, MaxSize: 64 << 20, Names: "full", Clients: "full"})
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	for i := 0; ; i++ {
		s.Put(flowAt(time.Now(), fmt.Sprintf("host%d.example", i%1000)))
		if i%500 == 499 {
			poke(s.full)
			for s.pending() > 0 { // all of it is written: nothing of it may be lost
				time.Sleep(100 * time.Microsecond)
			}
			fmt.Println(i + 1)
		}
	}
}

func (s *Store) pending() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.queue) > 0 {
		poke(s.full)
	}
	return s.count
}

func TestAKilledWriterLosesOneBatchAtMost(t *testing.T) {
	file := filepath.Join(t.TempDir(), "history.db")
	before := 0
	for round := range 10 {
		cmd := exec.CommandContext(t.Context(), os.Args[0])
		cmd.Env = append(os.Environ(), "PENSTOCK_HISTORY_CHILD="+file)
		cmd.Stderr = os.Stderr
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		told := 0
		for lines := bufio.NewScanner(out); told < 1500+round*100 && lines.Scan(); {
			if _, err := fmt.Sscan(lines.Text(), &told); err != nil {
				t.Fatal(lines.Text())
			}
		}
		time.Sleep(time.Duration(round) * time.Millisecond) // another moment each time
		cmd.Process.Kill()
		cmd.Wait()

		f := begin(t, Config{File: file})
		page, err := f.Records(t.Context(), control.RecordQuery{Limit: 1})
		if err != nil || len(page.Records) == 0 {
			t.Fatalf("round %d: got %v, %v after %d were written\n%s", round, page, err, told, f.said)
		}
		if n := int(page.Records[0].ID) - before; n < told {
			t.Errorf("round %d: got %d records, want at least the %d that were written", round, n, told)
		}
		before = int(page.Records[0].ID)
		if got := len(f.all(t, control.RecordFilter{}, maxPage)); got != before {
			t.Errorf("round %d: got %d records and a last ID of %d", round, got, before)
		}
		sums, err := f.Totals(t.Context(), control.TotalsQuery{By: "verdict"})
		if err != nil || len(sums.Totals) != 1 || int(sums.Totals[0].Allowed) != before {
			t.Errorf("round %d: got sums %+v, %v, want %d records", round, sums.Totals, err, before)
		}
		if strings.Contains(f.said.String(), "anew") {
			t.Fatal(f.said)
		}
		f.Close()
	}
}

// filled writes a history of n records and returns its file.
func filled(t *testing.T, n int) string {
	t.Helper()
	f := begin(t, Config{})
	for i := range n {
		f.Put(flowAt(time.Now(), fmt.Sprintf("host%d.example", i%100)))
	}
	f.flush(t)
	f.Close()
	return f.config.File
}

func TestAFileThatCannotBeUsedIsSetAside(t *testing.T) {
	change := func(f func([]byte) []byte) func(string) error {
		return func(file string) error {
			text, err := os.ReadFile(file)
			return errors.Join(err, os.WriteFile(file, f(text), 0o600))
		}
	}
	r := rand.New(rand.NewPCG(1, 2))
	for _, row := range []struct {
		sentence string
		spoil    func(string) error
		moved    string // part of the name that it gets; empty: perhaps
	}{
		{"a text", change(func([]byte) []byte { return []byte("dear diary\n") }), ".foreign-"},
		{"a folder", func(file string) error {
			return errors.Join(os.Remove(file), os.MkdirAll(filepath.Join(file, "x"), 0o700))
		}, ".foreign-"},
		{"the database of another program", change(func(b []byte) []byte { copy(b[68:72], "abcd"); return b }), ".foreign-"},
		{"half of it", change(func(b []byte) []byte { return b[:len(b)/2] }), ".damaged-"},
		{"a bit more than its head", change(func(b []byte) []byte { return b[:5000] }), ".damaged-"},
		{"zeros", change(func(b []byte) []byte { clear(b); return b }), ".damaged-"},
		{"a spoilt head", change(func(b []byte) []byte { copy(b, "XXXX"); return b }), ".damaged-"},
		{"spoilt pages", change(func(b []byte) []byte {
			for i := 4096; i < len(b); i += 4096 {
				copy(b[i:], "\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff")
			}
			return b
		}), ".damaged-"},
		{"random bytes", change(func(b []byte) []byte {
			for range 2000 {
				b[100+r.IntN(len(b)-100)] = byte(r.Uint32())
			}
			return b
		}), ""},
		{"nothing at all", change(func([]byte) []byte { return nil }), ""},
	} {
		t.Run(row.sentence, func(t *testing.T) {
			file := filled(t, 3000)
			if err := row.spoil(file); err != nil {
				t.Fatal(err)
			}
			f := begin(t, Config{File: file})
			// Damage shows when a page is needed: write and read until it works.
			eventually(t, "a new record can be read", func() bool {
				f.Put(flowAt(time.Now(), "new.example"))
				f.flush(t)
				f.Totals(t.Context(), control.TotalsQuery{RecordFilter: control.RecordFilter{Text: "x"}, By: "host"})
				page, err := f.Records(t.Context(), control.RecordQuery{RecordFilter: control.RecordFilter{Host: "new.example"}})
				return err == nil && len(page.Records) > 0
			})
			others, _ := filepath.Glob(file + ".*-*")
			if row.moved != "" && (len(others) != 1 || !strings.Contains(others[0], row.moved) || !strings.Contains(f.said.String(), "anew")) {
				t.Errorf("got %q set aside, want one with %s; it said\n%s", others, row.moved, f.said)
			}
			if runtime.GOOS != "windows" {
				for _, name := range []string{file, file + "-wal", file + "-shm", file + ".lock"} {
					if info, err := os.Stat(name); err != nil || info.Mode().Perm()&0o077 != 0 {
						t.Errorf("%s: got %v, %v, want 0600", name, info.Mode(), err)
					}
				}
			}
		})
	}
}

func TestThreeDamagedFilesAreKept(t *testing.T) {
	file := filepath.Join(t.TempDir(), "history[1].db")
	for i := range 5 {
		if err := os.WriteFile(file, make([]byte, 200+i), 0o600); err != nil {
			t.Fatal(err)
		}
		f := begin(t, Config{File: file, now: func() time.Time { return noon.Add(time.Duration(i) * time.Second) }})
		f.Close()
	}
	list, _ := os.ReadDir(filepath.Dir(file))
	var kept []string
	for _, e := range list {
		if strings.Contains(e.Name(), ".damaged-") {
			info, _ := e.Info()
			kept = append(kept, fmt.Sprint(info.Size()))
		}
	}
	if got := strings.Join(kept, " "); got != "202 203 204" {
		t.Errorf("got files of %s bytes, want the last three: 202 203 204", got)
	}
	for range 4 { // what is none of ours is never removed
		if err := os.WriteFile(file, []byte("diary"), 0o600); err != nil {
			t.Fatal(err)
		}
		f := begin(t, Config{File: file})
		f.Close()
		time.Sleep(2 * time.Millisecond)
	}
	if text, err := os.ReadFile(file); string(text) != "diary" {
		t.Errorf("the fourth foreign file: got %q, %v, want it left alone", text, err)
	}
}

func TestTheFileOfANewerVersionIsLeftAlone(t *testing.T) {
	file := filled(t, 10)
	f := begin(t, Config{File: file})
	f.flush(t)
	if _, err := rawExec(t, f, "PRAGMA user_version = 99"); err != nil {
		t.Fatal(err)
	}
	f.Close()
	before, _ := os.ReadFile(file)
	f = begin(t, Config{File: file})
	f.Put(flowAt(time.Now(), "a.example"))
	f.flush(t)
	if after, _ := os.ReadFile(file); string(before) != string(after) {
		t.Error("the file has changed")
	}
	_, err := f.Records(t.Context(), control.RecordQuery{})
	for _, text := range []string{"newer", "move the file away"} {
		if err == nil || !strings.Contains(err.Error(), text) || !strings.Contains(f.said.String(), text) {
			t.Errorf("got %v and the log\n%swant %q in both", err, f.said, text)
		}
	}
	if got := testutil.ToFloat64(f.metrics.stopped); got != 1 || f.lost() != 1 {
		t.Errorf("got stopped %v and %d lost, want 1 and 1", got, f.lost())
	}
	if got := f.Trouble(); !strings.HasPrefix(got, file+": ") || !strings.Contains(got, "newer") {
		t.Errorf("got the trouble %q, want the file and why", got)
	}
}

func TestTheFileOfTheFirstVersionIsBroughtUpToDate(t *testing.T) {
	now := func() time.Time { return noon.Add(time.Minute) }
	f := begin(t, Config{now: now})
	r := rand.New(rand.NewPCG(7, 8))
	for range 3000 {
		f.Put(someRecord(r, time.Hour))
	}
	f.flush(t)
	filters := []control.RecordFilter{{}, {Client: "ana"}, {Rule: "lan", Blocked: true}, {Client: "bob", Category: "ads"}, {Text: "ads"}}
	ask := func() (out string) {
		for _, filter := range filters {
			for _, one := range f.all(t, filter, 0) {
				out += fmt.Sprintln(one.ID)
			}
			sums, err := f.Totals(t.Context(), control.TotalsQuery{RecordFilter: filter, By: "host"})
			out += fmt.Sprintln(sums, err)
		}
		return out
	}
	want := ask()
	f.Close()
	if _, err := rawExec(t, f, `DROP TABLE list; ALTER TABLE span DROP COLUMN listed; ALTER TABLE how DROP COLUMN latest; ALTER TABLE client DROP COLUMN latest;
		ALTER TABLE place DROP COLUMN latest; CREATE INDEX record_place ON record (place); DELETE FROM note WHERE name = 'summed'; CREATE INDEX record_how ON record (how);
		CREATE INDEX record_client ON record (client); PRAGMA user_version = 1`); err != nil {
		t.Fatal(err)
	}
	f = begin(t, Config{File: f.config.File, now: now})
	if got := ask(); got != want {
		t.Errorf("got %.500s\nwant %.500s", got, want)
	}
	f.Close()
	f = begin(t, Config{File: f.config.File, Keep: 30 * time.Second, now: now})
	eventually(t, "all records are old, and removed", func() bool {
		f.soon.Store(true)
		f.Put(flowAt(now(), "now.example"))
		f.flush(t)
		n, err := rawExec(t, f, "SELECT count(*) FROM record WHERE id <= 3000")
		return err == nil && n == 0
	})
	if n, err := rawExec(t, f, "SELECT count(*) FROM list WHERE first <= 3000"); n > 0 || err != nil {
		t.Errorf("got %d rows of spans that are gone, %v, want none", n, err)
	}
}

func TestOneHistoryHasOnePenstock(t *testing.T) {
	f := begin(t, Config{})
	c := f.config
	c.Metrics = nil
	if s, err := Open(c); !errors.Is(err, ErrInUse) {
		s.Close()
		t.Errorf("got %v, want ErrInUse", err)
	}
	f.Close()
	begin(t, Config{File: c.File})
}

func TestAFirstStartMakesTheFolder(t *testing.T) {
	f := begin(t, Config{File: filepath.Join(t.TempDir(), "state", "history.db")})
	f.Put(flowAt(time.Now(), "a.example"))
	f.flush(t)
	if got := f.all(t, control.RecordFilter{}, 0); len(got) != 1 || f.lost() > 0 {
		t.Errorf("got %d records and %d lost, want one in a folder that was not there", len(got), f.lost())
	}
}

func TestAFileThatIsMovedAwayIsBegunAnew(t *testing.T) {
	f := begin(t, Config{})
	f.Put(flowAt(time.Now(), "a.example"))
	f.flush(t)
	if runtime.GOOS == "windows" {
		t.Skip("open files cannot be moved")
	}
	if err := os.Rename(f.config.File, f.config.File+".old"); err != nil {
		t.Fatal(err)
	}
	f.soon.Store(true)
	f.Put(flowAt(time.Now(), "b.example")) // which file it gets into depends on how far the writer was with the first
	f.flush(t)
	eventually(t, "the file is looked at", func() bool { return !f.soon.Load() })
	f.Put(flowAt(time.Now(), "c.example"))
	f.flush(t)
	var hosts []string
	for _, one := range f.all(t, control.RecordFilter{}, 0) {
		hosts = append(hosts, one.Flow.Host)
	}
	if len(hosts) == 0 || hosts[0] != "c.example" || slices.Contains(hosts, "a.example") || f.lost() > 0 {
		t.Errorf("got %v and %d lost, want c.example in a new file", hosts, f.lost())
	}
}

func TestOldRecordsGoAndTheirSumsStay(t *testing.T) {
	now := noon
	var f fixture
	tidy := func() {
		f.soon.Store(true)
		f.Put(flowAt(now, "now.example"))
		f.flush(t)
		eventually(t, "tidied", func() bool { return !f.soon.Load() })
	}
	f = begin(t, Config{Keep: 24 * time.Hour, now: func() time.Time { return now }})
	f.Put(flowAt(noon.AddDate(1, 0, 0), "future.example")) // the clock was wrong
	for range 3000 {
		f.Put(flowAt(noon.Add(-25*time.Hour), "old.example"))
	}
	for range 10 {
		f.Put(flowAt(noon.Add(-time.Hour), "young.example"))
	}
	f.Put(flowAt(time.Unix(0, 0), "past.example")) // wrong again: it goes, and nothing else for it
	f.flush(t)
	eventually(t, "the old records are gone", func() bool {
		tidy()
		return len(f.all(t, control.RecordFilter{Host: "old.example"}, 10)) == 0
	})
	for host, want := range map[string]int{"young.example": 10, "future.example": 0, "past.example": 0} {
		if got := len(f.all(t, control.RecordFilter{Host: host}, 0)); got != want {
			t.Errorf("%s: got %d records, want %d", host, got, want)
		}
	}
	sums, err := f.Totals(t.Context(), control.TotalsQuery{RecordFilter: control.RecordFilter{Host: "old.example"}, By: "hour"})
	if err != nil || len(sums.Totals) != 1 || sums.Totals[0].Allowed != 3000 {
		t.Errorf("the sums: got %+v, %v, want 3000 in one hour", sums.Totals, err)
	}
	eventually(t, "names that nothing needs are gone", func() bool {
		tidy()
		n, err := rawExec(t, f, "SELECT count(*) FROM place")
		return err == nil && n == 2 // young and now
	})
}

func TestTheSizeIsBounded(t *testing.T) {
	const most = 4 << 20
	f := begin(t, Config{MaxSize: most})
	stop := make(chan struct{})
	done := make(chan struct{})
	go func() { // somebody reads all the time: the log must be begun anew all the same
		defer close(done)
		for {
			select {
			case <-stop:
				return
			case <-time.After(time.Millisecond):
				f.Totals(t.Context(), control.TotalsQuery{RecordFilter: control.RecordFilter{Text: "x"}, By: "host"})
			}
		}
	}()
	r := rand.New(rand.NewPCG(1, 2))
	last := ""
	for i := range 14 {
		for range 2000 {
			last = fmt.Sprintf("%x.example", r.Uint64()) // random names: the worst case
			f.Put(flowAt(noon.Add(time.Duration(i)*time.Second), last))
		}
		f.flush(t)
		for of, most := range map[string]int64{"": most, "-wal": 3 * most} { // the log of a batch is larger than that of a small database may be
			if info, err := os.Stat(f.config.File + of); err == nil && info.Size() > most {
				t.Errorf("batch %d: got %d bytes of %q, want %d at most", i, info.Size(), of, most)
			}
		}
	}
	close(stop)
	<-done
	if n := len(f.all(t, control.RecordFilter{Host: last}, 0)); n != 1 || f.lost() > 0 {
		t.Errorf("the last record: got %d of it and %d lost, want 1 and none", n, f.lost())
	}
}

func TestWhatMustNotBeKeptIsNot(t *testing.T) {
	secret := func(verdict, category string) []control.Record {
		flow := flowAt(noon, "secret.example")
		flow.Flow.Verdict, flow.Flow.Category, flow.Flow.Reason = verdict, category, "dial tcp 192.0.2.7:443: connection refused"
		return []control.Record{flow, {Question: &control.Question{Proto: "dns", Src: "10.77.0.2:9", Peer: "ana", Host: "secret.example", Type: "A", Verdict: verdict,
			Category: category, Decided: "secret.example", Result: "x", Answers: []string{"192.0.2.7"}, Start: noon, End: noon}}}
	}
	for _, row := range []struct {
		names, clients, verdict, category string
		name, client                      bool
	}{
		{"full", "full", "direct", "", true, true},
		{"category", "full", "direct", "ads", false, true},
		{"category", "full", "block", "", false, true},
		{"category", "full", "block", "ads", true, true},
		{"off", "full", "block", "ads", false, true},
		{"full", "off", "block", "ads", true, false},
		{"off", "off", "block", "ads", false, false},
	} {
		f := begin(t, Config{Names: row.names, Clients: row.clients})
		for _, one := range secret(row.verdict, row.category) {
			f.Put(one)
		}
		f.flush(t)
		if got := len(f.all(t, control.RecordFilter{}, 0)); got != 2 {
			t.Fatalf("%+v: got %d records, want 2", row, got)
		}
		for by, want := range map[string]bool{"host": row.name, "client": row.client} {
			sums, err := f.Totals(t.Context(), control.TotalsQuery{By: by})
			if err != nil || len(sums.Totals) != 1 || (sums.Totals[0].Key != "") != want {
				t.Errorf("%+v: sums by %s: got %+v, %v", row, by, sums, err)
			}
		}
		f.Close()
		var whole []byte
		for _, part := range []string{"", "-wal"} {
			b, _ := os.ReadFile(f.config.File + part)
			whole = append(whole, b...)
		}
		has := func(s string) bool { return strings.Contains(string(whole), s) }
		if has(text.Reversed("secret.example")) != row.name || has("192.0.2.7") != row.name || has("\xc0\x00\x02\x07") != row.name || has("secret") {
			t.Errorf("%+v: the file has the name or the address, or has not", row)
		}
		if has("ana") != row.client || has("10.77.0.2") != row.client {
			t.Errorf("%+v: the file has the client, or has not", row)
		}
	}
}
