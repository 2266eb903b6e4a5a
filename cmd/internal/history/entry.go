package history

import (
	"encoding/binary"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"penstock/cmd/internal/control"
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
			how: circumstances{proto: clip(f.Proto), verdict: clip(f.Verdict), rule: clip(f.Rule), category: clip(f.Category), via: clip(f.Via),
				source: clip(f.HostSource), datapath: clip(f.Datapath), reason: cause(f.Reason)},
			peer: clip(f.Peer), host: clip(f.Host), end: f.End.UnixMilli(), tx: f.TxBytes, rx: f.RxBytes,
		}
		src = f.Src
		e.dst, more.dstPort = split(f.Dst)
		more = rest{took: micros(f.Start, f.End), dstPort: more.dstPort, txPkts: f.TxPkts, rxPkts: f.RxPkts, id: id, policy: f.Generation}
	case r.Question != nil:
		q := r.Question
		e = entry{
			how: circumstances{proto: clip(q.Proto), verdict: clip(q.Verdict), rule: clip(q.Rule), category: clip(q.Category), recordType: clip(q.Type),
				result: clip(q.Result), rcode: clip(q.Rcode), upstream: clip(q.Upstream), cacheHit: clip(q.Cache)},
			peer: clip(q.Peer), host: clip(q.Host), end: q.End.UnixMilli(), isQuestion: true,
		}
		src = q.Src
		more = rest{took: micros(q.Start, q.End)}
		for _, text := range q.Answers[:min(len(q.Answers), 4)] {
			if a, err := netip.ParseAddr(text); err == nil {
				more.answers = append(more.answers, a.WithZone(""))
			}
		}
		more.decided = clip(q.Decided)
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
		e.src, more.srcPort = split(src)
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
			Proto: c.proto, Src: join(e.src, more.srcPort), Peer: e.peer, Host: e.host, Type: c.recordType, Verdict: c.verdict, Rule: c.rule, Category: c.category,
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
		ID: strconv.FormatUint(more.id, 10), Proto: c.proto, Src: join(e.src, more.srcPort), Dst: join(e.dst, more.dstPort), Peer: e.peer, Host: e.host,
		HostSource: c.source, Verdict: c.verdict, Rule: c.rule, Category: c.category, Via: c.via, Datapath: c.datapath, TxBytes: e.tx, RxBytes: e.rx,
		TxPkts: more.txPkts, RxPkts: more.rxPkts, Start: start, End: end, Reason: c.reason, Generation: more.policy,
	}}
}

func micros(start, end time.Time) uint64 { return uint64(max(end.Sub(start).Microseconds(), 0)) }

// split returns the address and the port of "address:port", which may lack the port.
func split(s string) (addr string, port uint64) {
	if ap, err := netip.ParseAddrPort(s); err == nil {
		return ap.Addr().WithZone("").String(), uint64(ap.Port())
	}
	return clip(s), 0
}

// join undoes split. A port whose address is not kept stands alone.
func join(addr string, port uint64) string {
	switch {
	case port == 0:
		return addr
	case strings.Contains(addr, ":"):
		return "[" + addr + "]:" + strconv.FormatUint(port, 10)
	}
	return addr + ":" + strconv.FormatUint(port, 10)
}

// clip bounds a string, whose bytes may come from strangers.
func clip(s string) string {
	if len(s) > 255 {
		s = s[:255]
	}
	return strings.ToValidUTF8(s, "?")
}

// cause returns a reason without addresses and names, which would tell what may not be kept and make each reason a new one. The last part
// of an error says what happened.
func cause(reason string) string {
	if !strings.ContainsAny(reason, ".0123456789[") {
		return clip(reason)
	}
	last := reason[strings.LastIndex(reason, ": ")+1:]
	if strings.ContainsAny(last, ".0123456789[") {
		return "error"
	}
	return clip(strings.TrimSpace(last))
}

// reversed is a name backwards.
func reversed(s string) string {
	r := []rune(s)
	slices.Reverse(r)
	return string(r)
}
