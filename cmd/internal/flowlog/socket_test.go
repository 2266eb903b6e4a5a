package flowlog

import (
	"encoding/binary"
	"encoding/json"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"penstock/cmd/internal/control"
	"penstock/cmd/internal/logtest"
)

// daemon is a socket that takes datagrams, as the journal's does.
func daemon(t *testing.T, path string) *net.UnixConn {
	t.Helper()
	if runtime.GOOS == "windows" {
		t.Skip("there are no datagrams between processes here")
	}
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

// next returns the next datagram.
func next(t *testing.T, conn net.PacketConn) string {
	t.Helper()
	conn.SetReadDeadline(time.Now().Add(10 * time.Second))
	b := make([]byte, 64<<10)
	n, _, err := conn.ReadFrom(b)
	if err != nil {
		t.Fatal(err)
	}
	return string(b[:n])
}

// entry takes an entry of the journal apart.
func entry(t *testing.T, data string) map[string]string {
	t.Helper()
	fields := make(map[string]string)
	for data != "" {
		line, rest, ok := strings.Cut(data, "\n")
		if !ok {
			t.Fatalf("%q does not end its line", data)
		}
		name, value, short := strings.Cut(line, "=")
		if !short {
			n := binary.LittleEndian.Uint64([]byte(rest))
			value, rest = rest[8:8+n], rest[8+n:]
			if rest, ok = strings.CutPrefix(rest, "\n"); !ok {
				t.Fatalf("%s does not end where it says", name)
			}
		}
		if _, twice := fields[name]; twice {
			t.Errorf("%s is there twice", name)
		}
		fields[name], data = value, rest
	}
	return fields
}

// opened opens a log, and returns its counter.
func opened(t *testing.T, c Config) (*Log, prometheus.Counter, *logtest.Log) {
	t.Helper()
	said := new(logtest.Log)
	c.Dropped, c.Log = prometheus.NewCounter(prometheus.CounterOpts{Name: "x"}), slog.New(slog.NewTextHandler(said, nil))
	l, err := Open(c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(l.Close)
	return l, c.Dropped, said
}

func TestTheJournalGetsFields(t *testing.T) {
	path := filepath.Join(t.TempDir(), "socket")
	journal := daemon(t, path)
	l, dropped, _ := opened(t, Config{Journal: path})
	uid := uint32(1000)
	l.Flow(control.Flow{
		ID: "7", Proto: "tcp", Src: "10.77.0.2:40000", Dst: "192.0.2.1:443", Peer: "ana", Host: "site.bet", HostSource: "sni", Verdict: "block", Rule: "no-gambling",
		TxBytes: 5, Sender: control.Sender{Program: "/usr/bin/curl", UID: &uid}, Names: []control.Name{{Host: "site.bet", Source: "sni"}},
	})
	got := entry(t, next(t, journal))
	for name, want := range map[string]string{
		"MESSAGE": "flow: block tcp from ana 10.77.0.2:40000 to site.bet 192.0.2.1:443 by rule no-gambling", "PRIORITY": "6", "SYSLOG_IDENTIFIER": "penstock",
		"PENSTOCK_KIND": "flow", "PENSTOCK_FLOW_ID": "7", "PENSTOCK_HOST": "site.bet", "PENSTOCK_HOST_SOURCE": "sni", "PENSTOCK_VERDICT": "block", "PENSTOCK_TX_BYTES": "5",
		"PENSTOCK_PROGRAM": "/usr/bin/curl", "PENSTOCK_UID": "1000", "PENSTOCK_NAMES": `[{"host":"site.bet","source":"sni"}]`,
	} {
		if got[name] != want {
			t.Errorf("%s: got %q, want %q", name, got[name], want)
		}
	}
	l.Question(control.Question{Proto: "dns", Src: "10.77.0.2:5353", Host: "evil\nPRIORITY=0\nPENSTOCK_VERDICT=direct", Type: "A", Verdict: "block", Result: "blocked"})
	got = entry(t, next(t, journal))
	if got["PENSTOCK_KIND"] != "question" || got["PENSTOCK_HOST"] != "evil\nPRIORITY=0\nPENSTOCK_VERDICT=direct" || got["PRIORITY"] != "6" || got["PENSTOCK_VERDICT"] != "block" {
		t.Errorf("a name with lines in it: got %q, want it whole and nothing else changed", got)
	}
	if n := testutil.ToFloat64(dropped); n != 0 {
		t.Errorf("got %v lost, want none", n)
	}
}

func TestAJournalThatStartsAgainGetsTheNextRecords(t *testing.T) {
	path := filepath.Join(t.TempDir(), "socket")
	first := daemon(t, path)
	l, dropped, said := opened(t, Config{Journal: path})
	l.Flow(control.Flow{ID: "1"})
	next(t, first)
	first.Close()
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	l.Flow(control.Flow{ID: "2"})
	eventually(t, "the record is counted as lost", func() bool { return testutil.ToFloat64(dropped) == 1 })
	second := daemon(t, path)
	// Records are lost until the socket is tried again.
	eventually(t, "a record arrives", func() bool {
		l.Flow(control.Flow{ID: "3"})
		second.SetReadDeadline(time.Now().Add(50 * time.Millisecond))
		b := make([]byte, 4096)
		n, err := second.Read(b)
		return err == nil && strings.Contains(string(b[:n]), "PENSTOCK_FLOW_ID=3\n")
	})
	eventually(t, "the log says so", func() bool { return strings.Contains(said.String(), "is written again") })
	if text := said.String(); strings.Count(text, "records are lost") != 1 || strings.Count(text, "is written again") != 1 {
		t.Errorf("got the log\n%s\nwant one line for each change", text)
	}
}

func TestAJournalThatHangsKeepsNobodyWaiting(t *testing.T) {
	path := filepath.Join(t.TempDir(), "socket")
	daemon(t, path) // it reads nothing
	l, dropped, _ := opened(t, Config{Journal: path})
	const sent = 2 * maxRecords
	for range sent {
		l.Flow(control.Flow{ID: "1", Host: "a.example"})
	}
	l.Close()
	if n := testutil.ToFloat64(dropped); n < sent-maxRecords-2000 || n > sent {
		t.Errorf("got %v of %d lost, want what no queue holds", n, sent)
	}
}

func TestASocketThatIsNotThereIsSaidAtTheStart(t *testing.T) {
	if _, err := Open(Config{Journal: filepath.Join(t.TempDir(), "none")}); err == nil || !strings.Contains(err.Error(), "none") {
		t.Errorf("got %v, want an error with the path", err)
	}
}

func TestSyslogGetsARecordInAMessage(t *testing.T) {
	udp, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer udp.Close()
	path := filepath.Join(t.TempDir(), "log")
	unix := daemon(t, path)
	for _, row := range []struct {
		name, to string
		conn     net.PacketConn
	}{{"UDP", udp.LocalAddr().String(), udp}, {"a path", path, unix}} {
		t.Run(row.name, func(t *testing.T) {
			l, _, _ := opened(t, Config{Syslog: row.to})
			l.Flow(control.Flow{ID: "7", Host: "a.example\n<0>1 evil", Verdict: "direct"})
			got := next(t, row.conn)
			// RFC 5424, 6: PRI VERSION TIMESTAMP HOSTNAME APP-NAME PROCID MSGID STRUCTURED-DATA MSG
			parts := regexp.MustCompile(`^<134>1 (\S+) \S+ penstock \d+ flow - (\{[^\n]*\})$`).FindStringSubmatch(got)
			if parts == nil {
				t.Fatalf("got %q, want a message of RFC 5424", got)
			}
			if at, err := time.Parse(time.RFC3339Nano, parts[1]); err != nil || time.Since(at).Abs() > time.Hour {
				t.Errorf("got the time %s, %v", parts[1], err)
			}
			var f control.Flow
			if err := json.Unmarshal([]byte(parts[2]), &f); err != nil || f.ID != "7" || f.Host != "a.example\n<0>1 evil" {
				t.Errorf("got %+v, %v", f, err)
			}
		})
	}
}
