package flowlog

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

// JournalSocket is where systemd's journal takes entries with fields.
const JournalSocket = "/run/systemd/journal/socket"

// writeWait is how long a socket may stall before a record is lost.
const writeWait = time.Second

// socket sends each record as a datagram. It is used by one goroutine; only abort may be called from others.
//
// The journal's client of go-systemd (v22.7.0, read 2026-11) has one socket for all of the process, of a path that only a linker
// changes, and a write that nothing ends: it would keep a stop waiting.
type socket struct {
	network, address string // for net.Dial
	encode           func(line []byte) ([]byte, error)

	retry   time.Time // when to dial again after a failure
	failure error     // that failure

	mu      sync.Mutex // guards below
	conn    net.Conn   // nil if it is not open
	aborted bool
}

func (s *socket) name() string { return s.address }

// start dials: whatever is wrong with the address shows here.
func (s *socket) start() error {
	conn, err := net.Dial(s.network, s.address)
	if err != nil {
		return fmt.Errorf("flow log: %w", err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.aborted {
		conn.Close()
		return os.ErrClosed
	}
	s.conn = conn
	return nil
}

func (s *socket) group(lines [][]byte) [][]byte { return lines[:1] }

func (s *socket) write(lines [][]byte) error {
	if s.conn == nil {
		now := time.Now()
		if now.Before(s.retry) {
			return s.failure
		}
		if err := s.start(); err != nil {
			s.retry, s.failure = now.Add(reopenPause), err
			return err
		}
	}
	for _, line := range lines {
		datagram, err := s.encode(line)
		if err != nil {
			return fmt.Errorf("flow log: %w", err)
		}
		s.conn.SetWriteDeadline(time.Now().Add(writeWait))
		if _, err := s.conn.Write(datagram); err != nil {
			s.close() // who listened may have been started again
			return fmt.Errorf("flow log: %w", err)
		}
	}
	return nil
}

func (s *socket) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.conn != nil {
		s.conn.Close()
		s.conn = nil
	}
}

func (s *socket) abort() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.aborted = true
	if s.conn != nil {
		s.conn.Close()
	}
}

// priority is that of the records: 6, informational (RFC 5424, 6.2.1).
const priority = 6

// journalEntry turns a line into an entry of the journal (systemd.io/JOURNAL_NATIVE_PROTOCOL, read 2026-11): a sentence, and a field
// PENSTOCK_... for each field of the line.
func journalEntry(line []byte) ([]byte, error) {
	fields, err := fieldsOf(line)
	if err != nil {
		return nil, err
	}
	var b bytes.Buffer
	put := func(name, value string) {
		if !strings.Contains(value, "\n") {
			fmt.Fprintf(&b, "%s=%s\n", name, value)
			return
		}
		fmt.Fprintf(&b, "%s\n", name)
		b.Write(binary.LittleEndian.AppendUint64(nil, uint64(len(value))))
		fmt.Fprintf(&b, "%s\n", value)
	}
	kind := "question"
	if _, ok := fields["flow_id"]; ok {
		kind = "flow"
	}
	put("MESSAGE", sentence(kind, fields))
	put("PRIORITY", strconv.Itoa(priority))
	put("SYSLOG_IDENTIFIER", "penstock")
	put("PENSTOCK_KIND", kind)
	names := make([]string, 0, len(fields))
	for name := range fields {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		put("PENSTOCK_"+upper(name), fields[name])
	}
	return b.Bytes(), nil
}

// fieldsOf returns the fields of a line: texts as they are, other values as JSON.
func fieldsOf(line []byte) (map[string]string, error) {
	var raw map[string]json.RawMessage
	if err := json.Unmarshal(line, &raw); err != nil {
		return nil, err
	}
	fields := make(map[string]string, len(raw))
	for name, value := range raw {
		text := ""
		if json.Unmarshal(value, &text) != nil {
			text = string(value)
		}
		fields[name] = text
	}
	return fields, nil
}

// sentence says in short what a record says.
func sentence(kind string, fields map[string]string) string {
	way := fields["verdict"]
	if via := fields["via"]; via != "" {
		way += " " + via
	}
	from := fields["src"]
	if peer := fields["peer"]; peer != "" {
		from = peer + " " + from
	}
	to := fields["dst"]
	if host := fields["host"]; host != "" {
		to = strings.TrimSpace(host + " " + to)
	}
	text := fmt.Sprintf("%s: %s %s from %s to %s", kind, way, fields["proto"], from, to)
	if rule := fields["rule"]; rule != "" {
		text += " by rule " + rule
	}
	return text
}

// upper turns txBytes and host_source into TX_BYTES and HOST_SOURCE.
func upper(name string) string {
	var b strings.Builder
	for _, c := range name {
		if 'A' <= c && c <= 'Z' {
			b.WriteByte('_')
		}
		b.WriteRune(c)
	}
	return strings.ToUpper(b.String())
}

// syslogMessage returns what turns a line into a message of RFC 5424 that holds it. The facility is local0.
func syslogMessage() func(line []byte) ([]byte, error) {
	const local0 = 16
	host, err := os.Hostname()
	if err != nil || host == "" || len(host) > 255 {
		host = "-"
	}
	return func(line []byte) ([]byte, error) {
		head := fmt.Sprintf("<%d>1 %s %s penstock %d flow - ", local0*8+priority, time.Now().UTC().Format("2006-01-02T15:04:05.000000Z"), host, os.Getpid())
		return append([]byte(head), bytes.TrimSuffix(line, []byte("\n"))...), nil
	}
}
