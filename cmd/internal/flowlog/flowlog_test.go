package flowlog

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"go.uber.org/goleak"

	"penstock/cmd/internal/control"
	"penstock/cmd/internal/logtest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// fixture is an open log, its counter and what it said.
type fixture struct {
	*Log
	path    string
	dropped prometheus.Counter
	said    *logtest.Log
}

// open1 opens a log at path, or in a new directory, by the given function or as Open does.
func open1(t *testing.T, c Config, openWith func(string) (file, error)) fixture {
	t.Helper()
	if c.File == "" {
		c.File = filepath.Join(t.TempDir(), "flows.json")
	}
	if openWith == nil {
		openWith = openFile
	}
	said := new(logtest.Log)
	c.Dropped = prometheus.NewCounter(prometheus.CounterOpts{Name: "x"})
	c.Log = slog.New(slog.NewTextHandler(said, nil))
	l, err := open(c, openWith)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(l.Close)
	return fixture{l, c.File, c.Dropped, said}
}

// lost is how many records were counted as lost.
func (f fixture) lost() int { return int(testutil.ToFloat64(f.dropped)) }

// eventually waits until ok, for five seconds at most.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(5 * time.Second); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("after 5 s still not: %s", what)
		}
	}
}

// returns runs f, which would wait for ever if it waited for the disk or the reader of the test.
func returns(what string, f func()) {
	late := time.AfterFunc(time.Minute, func() { panic(what + " has not ended after a minute") })
	defer late.Stop()
	f()
}

// records returns the flows in a file. Every line must be one.
func records(t *testing.T, path string) []control.Flow {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var list []control.Flow
	for s := bufio.NewScanner(f); s.Scan(); {
		var r control.Flow
		if err := json.Unmarshal(s.Bytes(), &r); err != nil {
			t.Fatalf("%s: line %q: %v", path, s.Text(), err)
		}
		list = append(list, r)
	}
	return list
}

// flow is a record of some 400 bytes.
func flow(id int) control.Flow {
	return control.Flow{ID: fmt.Sprint(id), Rule: strings.Repeat("r", 200), Verdict: "block", Generation: 3}
}

func TestEveryRecordIsWrittenInOrder(t *testing.T) {
	l := open1(t, Config{}, nil)
	const n = 5000
	for i := range n {
		l.Flow(flow(i))
	}
	l.Close()
	list := records(t, l.path)
	if len(list) != n || l.lost() != 0 {
		t.Fatalf("got %d records and %d lost, want %d and none", len(list), l.lost(), n)
	}
	for i, r := range list {
		if r.ID != fmt.Sprint(i) || r.Generation != 3 {
			t.Fatalf("record %d: got %+v, want flow %d whole", i, r, i)
		}
	}
	if info, err := os.Stat(l.path); err != nil || info.Mode().Perm()&0o137 != 0 {
		t.Errorf("got mode %v, %v, want 0640 at most", info.Mode(), err)
	}
}

func TestAFullFileIsRotated(t *testing.T) {
	l := open1(t, Config{MaxSize: 4096, Keep: 2}, nil)
	for i := range 100 {
		l.Flow(flow(i))
	}
	l.Close()
	next := 100
	for _, path := range []string{l.path, l.path + ".1", l.path + ".2"} { // the newest first
		info, err := os.Stat(path)
		if err != nil || info.Size() > 4096 {
			t.Errorf("%s: got %v, %v; want 4096 bytes at most", path, info.Size(), err)
		}
		list := records(t, path)
		for i, r := range list {
			if want := fmt.Sprint(next - len(list) + i); r.ID != want {
				t.Errorf("%s: got flow %s, want %s", path, r.ID, want)
			}
		}
		next -= len(list)
	}
	if _, err := os.Stat(l.path + ".3"); !os.IsNotExist(err) {
		t.Errorf("a third old file: got %v, want none", err)
	}
	if l.lost() != 0 {
		t.Errorf("got %d lost, want none", l.lost())
	}
}

func TestWithoutOldFilesOneStays(t *testing.T) {
	l := open1(t, Config{MaxSize: 4096}, nil)
	for i := range 100 {
		l.Flow(flow(i))
	}
	l.Close()
	files, err := os.ReadDir(filepath.Dir(l.path))
	if err != nil || len(files) != 1 {
		t.Errorf("got %v, %v, want one file", files, err)
	}
	if list := records(t, l.path); len(list) == 0 || list[len(list)-1].ID != "99" {
		t.Errorf("got %d records, want the last to be the newest", len(list))
	}
}

func TestARecordBeginsANewLineWhateverACrashLeft(t *testing.T) {
	for name, garbage := range map[string]string{"half a record": `{"flow_id":"7","pro`, "zeros": "\x00\x00\x00", "a whole line": "{}\n"} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "flows.json")
			if err := os.WriteFile(path, []byte(garbage), 0o600); err != nil {
				t.Fatal(err)
			}
			l := open1(t, Config{File: path}, nil)
			l.Flow(flow(1))
			l.Close()
			text, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			lines := strings.Split(strings.TrimSuffix(string(text), "\n"), "\n")
			var r control.Flow
			if err := json.Unmarshal([]byte(lines[len(lines)-1]), &r); err != nil || r.ID != "1" || len(lines) != 2 {
				t.Errorf("got %q, want what was there and the record below it", text)
			}
		})
	}
}

func TestALogThatCannotBeRotatedCountsAndComesBack(t *testing.T) {
	l := open1(t, Config{MaxSize: 4096, Keep: 1}, nil)
	old := l.path + ".1" // a directory with something in it is in the way
	if err := os.MkdirAll(filepath.Join(old, "x"), 0o700); err != nil {
		t.Fatal(err)
	}
	for i := range 30 {
		l.Flow(flow(i))
	}
	eventually(t, "records are lost", func() bool { return l.lost() > 0 })
	if err := os.RemoveAll(old); err != nil {
		t.Fatal(err)
	}
	eventually(t, "a record is written again", func() bool {
		l.Flow(control.Flow{ID: "back"})
		list := records(t, l.path)
		return len(list) > 0 && list[len(list)-1].ID == "back"
	})
	eventually(t, "the log says so", func() bool { return strings.Contains(l.said.String(), "is written again") }) // after the record
	for _, want := range []string{"cannot be written: records are lost", "is written again"} {
		if got := strings.Count(l.said.String(), want); got != 1 {
			t.Errorf("got %q %d times, want once:\n%s", want, got, l.said)
		}
	}
}

func TestWhatCannotBeALogIsRefused(t *testing.T) {
	dir := t.TempDir()
	for _, path := range []string{dir, filepath.Join(dir, "none", "flows.json")} {
		if l, err := Open(Config{File: path}); err == nil || !strings.Contains(err.Error(), path) {
			t.Errorf("got %v, %v, want an error that names %s", l, err, path)
		}
	}
}

func TestAQuestionBecomesALineWithTheKeysOfAFlow(t *testing.T) {
	l := open1(t, Config{}, nil)
	at := time.Date(2026, 1, 31, 21, 30, 0, 0, time.UTC)
	l.Question(control.Question{Proto: "dns", Src: "10.77.0.2:4000", Host: "x.bet", Type: "A", Verdict: "block", Rule: "no-gambling", Result: "blocked", Start: at, End: at})
	l.Question(control.Question{Host: "another.example"})
	l.Close()
	list := records(t, l.path)
	if len(list) != 2 {
		t.Fatalf("got %d records, want 2", len(list))
	}
	got := list[0]
	if want := (control.Flow{Proto: "dns", Src: "10.77.0.2:4000", Host: "x.bet", Verdict: "block", Rule: "no-gambling", Start: at, End: at}); fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("got %+v, want %+v", got, want)
	}
	text, err := os.ReadFile(l.path)
	if err != nil {
		t.Fatal(err)
	}
	line, _, _ := strings.Cut(string(text), "\n")
	if want := `{"proto":"dns","src":"10.77.0.2:4000","host":"x.bet","type":"A","verdict":"block","rule":"no-gambling","result":"blocked","start":"2026-01-31T21:30:00Z","end":"2026-01-31T21:30:00Z"}`; line != want {
		t.Errorf("got %s, want exactly these keys in this order", line)
	}
}

func TestARecordAfterTheEndIsCounted(t *testing.T) {
	l := open1(t, Config{}, nil)
	l.Close()
	l.Flow(flow(1))
	l.Close()
	if got := l.lost(); got != 1 {
		t.Errorf("got %d lost, want 1", got)
	}
}

// disk is a file whose writes do what a test says.
type disk struct {
	file
	write func(p []byte) (int, error)
}

func (d disk) Write(p []byte) (int, error) { return d.write(p) }

// onDisk opens the real file and writes through write.
func onDisk(write func(f file, p []byte) (int, error)) func(string) (file, error) {
	return func(path string) (file, error) {
		f, err := openFile(path)
		return disk{f, func(p []byte) (int, error) { return write(f, p) }}, err
	}
}

func TestADiskThatStallsHoldsNobodyUp(t *testing.T) {
	resume := make(chan struct{})
	t.Cleanup(func() { close(resume) })
	stalled := onDisk(func(f file, p []byte) (int, error) {
		<-resume
		return f.Write(p)
	})
	l := open1(t, Config{}, stalled)
	const n = 20000
	returns(fmt.Sprintf("writing %d records", n), func() {
		for i := range n {
			l.Flow(flow(i))
		}
	})
	l.mu.Lock()
	count, bytes := l.count, l.bytes
	l.mu.Unlock()
	if count > maxRecords || bytes > maxBytes || count+l.lost() != n {
		t.Errorf("got %d records of %d bytes held and %d lost, want the bounds held and %d in all", count, bytes, l.lost(), n)
	}
	returns("Close", l.Close)
	if got := l.lost(); got != n {
		t.Errorf("got %d lost, want all %d", got, n)
	}
}

func TestADiskThatStallsDoesNotHoldUpAStart(t *testing.T) {
	resume := make(chan struct{})
	var l fixture
	returns("Open", func() {
		l = open1(t, Config{}, func(path string) (file, error) {
			<-resume
			return openFile(path)
		})
	})
	l.Flow(flow(1))
	close(resume)
	l.Close()
	if list := records(t, l.path); len(list) != 1 || l.lost() != 0 {
		t.Errorf("got %d records and %d lost once the disk answers, want the one", len(list), l.lost())
	}
}

// TestAFullDiskLeavesNoHalfRecord has a disk with room for 1000 bytes, and later for more.
func TestAFullDiskLeavesNoHalfRecord(t *testing.T) {
	var mu sync.Mutex
	room := 1000
	full := onDisk(func(f file, p []byte) (int, error) {
		mu.Lock()
		defer mu.Unlock()
		if len(p) <= room {
			room -= len(p)
			return f.Write(p)
		}
		n, _ := f.Write(p[:room])
		room = 0
		return n, errors.New("no space left on device")
	})
	l := open1(t, Config{}, full)
	for i := range 20 {
		l.Flow(flow(i))
	}
	eventually(t, "records are lost", func() bool { return l.lost() > 0 })
	mu.Lock()
	room = 1 << 20
	mu.Unlock()
	l.Flow(control.Flow{ID: "back"})
	l.Close()
	list := records(t, l.path) // fails on half a record
	if len(list) == 0 || list[len(list)-1].ID != "back" || len(list)+l.lost() != 21 {
		t.Errorf("got %d records and %d lost, want 21 in all and the last one back", len(list), l.lost())
	}
}

func TestManyWritersLoseNothingThatFits(t *testing.T) {
	l := open1(t, Config{MaxSize: 64 << 10, Keep: 200}, nil)
	var wg sync.WaitGroup
	for w := range 8 {
		wg.Go(func() {
			for i := range 500 {
				l.Flow(flow(1000*w + i))
			}
		})
	}
	wg.Wait()
	l.Close()
	seen := make(map[string]bool)
	files, err := filepath.Glob(l.path + "*")
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range files {
		for _, r := range records(t, path) {
			seen[r.ID] = true
		}
	}
	if len(seen) != 4000 || l.lost() != 0 {
		t.Errorf("got %d records in %d files and %d lost, want 4000 and none", len(seen), len(files), l.lost())
	}
}

var _ file = (*os.File)(nil)
