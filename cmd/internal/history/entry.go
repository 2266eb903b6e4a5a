package history

import (
	"encoding/binary"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"penstock/cmd/internal/control"
	"penstock/cmd/internal/history/text"
)

// circumstances are what many records have in common. Their text is the fields with separators between them.
type circumstances struct {
	proto, verdict, rule, category                string
	via, source, datapath, reason                 string // of flows
	recordType, result, rcode, upstream, cacheHit string // of questions
}

const separator = "\x1f"

// sameName stands for the name that was asked for.
const sameName = "="

func (c circumstances) blocked() bool { return c.verdict == "block" || c.verdict == "drop" }

func (c circumstances) text() string {
	list := []string{c.proto, c.verdict, c.rule, c.category, c.via, c.source, c.datapath, c.reason, c.recordType, c.result, c.rcode, c.upstream, c.cacheHit}
	for i, s := range list {
		list[i] = strings.ReplaceAll(s, separator, " ")
	}
	return strings.Join(list, separator)
}

// parseCircumstances undoes text.
func parseCircumstances(text string) (c circumstances) {
	list := strings.Split(text, separator)
	for i, to := range []*string{&c.proto, &c.verdict, &c.rule, &c.category, &c.via, &c.source, &c.datapath, &c.reason, &c.recordType, &c.result, &c.rcode,
		&c.upstream, &c.cacheHit} {
		if i < len(list) {
			*to = list[i]
		}
	}
	return c
}

// entry is a record on its way into the database, without what must not be kept.
type entry struct {
	how        circumstances
	peer, src  string
	host, dst  string
	end        int64 // ms since 1970
	tx, rx     uint64
	rest       []byte
	hasClient  bool
	isQuestion bool
}

// rest is what no question asks for: numbers of variable length one after another, then addresses and a name. Zeros at its end are left
// out.
type rest struct {
	took                       uint64 // µs
	srcPort, dstPort           uint64
	txPkts, rxPkts, id, policy uint64
	answers                    []netip.Addr
	decided                    string
}

func (r rest) bytes() []byte {
	b := make([]byte, 0, 48)
	for _, n := range []uint64{r.took, r.srcPort, r.dstPort, r.txPkts, r.rxPkts, r.id, r.policy, uint64(len(r.answers))} {
		b = binary.AppendUvarint(b, n)
	}
	for _, a := range r.answers {
		b = append(binary.AppendUvarint(b, uint64(a.BitLen()/8)), a.AsSlice()...)
	}
	b = append(binary.AppendUvarint(b, uint64(len(r.decided))), r.decided...)
	end := len(b)
	for end > 0 && b[end-1] == 0 {
		end--
	}
	return b[:end]
}

func parseRest(b []byte) (r rest) {
	number := func() uint64 {
		n, size := binary.Uvarint(b)
		b = b[max(size, 0):]
		return n
	}
	text := func() []byte { // zeros at the end were left out
		n := min(number(), 255)
		for uint64(len(b)) < n {
			b = append(slices.Clip(b), 0)
		}
		s := b[:n]
		b = b[n:]
		return s
	}
	for _, to := range []*uint64{&r.took, &r.srcPort, &r.dstPort, &r.txPkts, &r.rxPkts, &r.id, &r.policy} {
		*to = number()
	}
	for range min(number(), 16) {
		if a, ok := netip.AddrFromSlice(text()); ok {
			r.answers = append(r.answers, a)
		}
	}
	r.decided = string(text())
	return r
}

// kept is what may be kept.
type kept struct{ names, clients string }

// entry returns what is kept of a record.
func (k kept) entry(r control.Record) entry {
	var e entry
	var src string
	var more rest
	switch {
	case r.Flow != nil:
		f := r.Flow
		id, _ := strconv.ParseUint(f.ID, 10, 64)
		e = entry{
			how: circumstances{proto: text.Clip(f.Proto), verdict: text.Clip(f.Verdict), rule: text.Clip(f.Rule), category: text.Clip(f.Category), via: text.Clip(f.Via),
				source: text.Clip(f.HostSource), datapath: text.Clip(f.Datapath), reason: text.Cause(f.Reason)},
			peer: text.Clip(f.Peer), host: text.Clip(f.Host), end: f.End.UnixMilli(), tx: f.TxBytes, rx: f.RxBytes,
		}
		src = f.Src
		e.dst, more.dstPort = text.Split(f.Dst)
		more = rest{took: micros(f.Start, f.End), dstPort: more.dstPort, txPkts: f.TxPkts, rxPkts: f.RxPkts, id: id, policy: f.Generation}
	case r.Question != nil:
		q := r.Question
		e = entry{
			how: circumstances{proto: text.Clip(q.Proto), verdict: text.Clip(q.Verdict), rule: text.Clip(q.Rule), category: text.Clip(q.Category), recordType: text.Clip(q.Type),
				result: text.Clip(q.Result), rcode: text.Clip(q.Rcode), upstream: text.Clip(q.Upstream), cacheHit: text.Clip(q.Cache)},
			peer: text.Clip(q.Peer), host: text.Clip(q.Host), end: q.End.UnixMilli(), isQuestion: true,
		}
		src = q.Src
		more = rest{took: micros(q.Start, q.End)}
		for _, text := range q.Answers[:min(len(q.Answers), 4)] {
			if a, err := netip.ParseAddr(text); err == nil {
				more.answers = append(more.answers, a.WithZone(""))
			}
		}
		more.decided = text.Clip(q.Decided)
		if q.Decided != "" && q.Decided == q.Host {
			more.decided = sameName
		}
	}
	if k.names == "off" || k.names == "category" && !(e.how.blocked() && e.how.category != "") {
		e.host, e.dst, e.how.source, more.answers, more.decided = "", "", "", nil, ""
	}
	if k.clients == "off" {
		e.peer, more.srcPort = "", 0
	} else {
		e.src, more.srcPort = text.Split(src)
		e.hasClient = e.peer != "" || e.src != ""
	}
	e.rest = more.bytes()
	return e
}

// record is the inverse of entry, without names.
func (e entry) record(id int64) control.Record {
	more := parseRest(e.rest)
	end := time.UnixMilli(e.end)
	start := end.Add(-time.Duration(more.took) * time.Microsecond)
	c := e.how
	if e.isQuestion {
		q := &control.Question{
			Proto: c.proto, Src: text.Join(e.src, more.srcPort), Peer: e.peer, Host: e.host, Type: c.recordType, Verdict: c.verdict, Rule: c.rule, Category: c.category,
			Decided: more.decided, Result: c.result, Rcode: c.rcode, Upstream: c.upstream, Cache: c.cacheHit, Start: start, End: end,
		}
		if q.Decided == sameName {
			q.Decided = q.Host
		}
		for _, a := range more.answers {
			q.Answers = append(q.Answers, a.String())
		}
		return control.Record{ID: id, Question: q}
	}
	return control.Record{ID: id, Flow: &control.Flow{
		ID: strconv.FormatUint(more.id, 10), Proto: c.proto, Src: text.Join(e.src, more.srcPort), Dst: text.Join(e.dst, more.dstPort), Peer: e.peer, Host: e.host,
		HostSource: c.source, Verdict: c.verdict, Rule: c.rule, Category: c.category, Via: c.via, Datapath: c.datapath, TxBytes: e.tx, RxBytes: e.rx,
		TxPkts: more.txPkts, RxPkts: more.rxPkts, Start: start, End: end, Reason: c.reason, Generation: more.policy,
	}}
}

func micros(start, end time.Time) uint64 { return uint64(max(end.Sub(start).Microseconds(), 0)) }
