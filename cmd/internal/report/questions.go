package report

import (
	"strconv"
	"strings"
	"sync"
	"time"

	"penstock/cmd/internal/control"
	"penstock/dnsproxy"
	"penstock/policy"
)

// sayEvery is how often the log tells about refusals of one kind at most. A page with advertising asks for dozens of names,
// and a scan for thousands of addresses.
const sayEvery = 10 * time.Second

// sometimes decides which refusals the log is told about.
type sometimes struct {
	said   time.Time // when the log was told last
	unsaid int       // refusals since then
}

// say reports whether the log should tell about a refusal at a time, and how many others it has not told about.
func (s *sometimes) say(at time.Time) (others int, ok bool) {
	if !s.said.IsZero() && at.Sub(s.said) < sayEvery {
		s.unsaid++
		return 0, false
	}
	others, s.said, s.unsaid = s.unsaid, at, 0
	return others, true
}

// questions keeps the DNS questions that the policy refused most recently. To a user they are refused flows: the program asked for a
// name, and no flow followed.
type questions struct {
	mu    sync.Mutex // guards below
	ring  []asked
	count uint64
	log   sometimes
}

// asked is a question. Its program may be found later.
type asked struct {
	control.Flow
	sender *policy.Sender
}

// Refused records a question that the policy refused, and logs one now and then.
func (r *Flows) Refused(q dnsproxy.Refused) {
	f := control.Flow{
		Proto: "dns", Src: q.Src.String(), Peer: q.Peer, Host: strings.Clone(q.Host), HostSource: "dns",
		Rule: q.Verdict.Rule, Category: q.Verdict.Category, Start: q.Time, End: q.Time,
		Reason: "question: the name was not resolved", Generation: q.Verdict.Edition,
	}
	if q.Decided != q.Host {
		f.Reason = "question: the name leads to " + q.Decided
	}
	if q.Addr.IsValid() {
		f.Reason = "question: the rule blocks every flow to " + q.Addr.String()
	}
	f.Verdict, f.Via = words(q.Verdict)
	if others, say := r.questions.add(asked{f, q.Sender}); say && r.Log != nil {
		r.Log.Info("name refused", "host", f.Host, "src", q.Src, "peer", q.Peer, "rule", f.Rule, "category", f.Category, "others", others)
	}
}

// add keeps f. say reports whether the log should tell about it, and others how many questions it has not told about.
func (q *questions) add(f asked) (others int, say bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	f.ID = "q" + strconv.FormatUint(q.count+1, 10)
	if len(q.ring) < remembered {
		q.ring = append(q.ring, f)
	} else {
		q.ring[q.count%remembered] = f
	}
	q.count++
	return q.log.say(f.Start)
}

// all returns what is kept, in no order.
func (q *questions) all() []control.Flow {
	q.mu.Lock()
	defer q.mu.Unlock()
	list := make([]control.Flow, len(q.ring))
	for i, f := range q.ring {
		list[i] = f.Flow
		list[i].Sender = sender(f.sender)
	}
	return list
}

// answersKept is how many addresses of an answer are recorded.
const answersKept = 4

// Question converts a query to the form of the control API and the flow log. It works only while the server tells of the query.
func Question(q dnsproxy.Query) control.Question {
	c := control.Question{
		Proto: "dns", Src: q.Src.String(), Peer: q.Peer, Host: q.Host, Type: q.Type, Verdict: "dns", Rule: q.Rule, Category: q.Category,
		Decided: q.Decided, Result: q.Result, Rcode: q.Rcode, Upstream: q.Upstream, Cache: q.Cache, Start: q.Start, End: time.Now(),
		Sender: sender(q.Sender),
	}
	switch q.Action {
	case policy.Refuse:
		c.Verdict = "block"
	case policy.Drop:
		c.Verdict = "drop"
	}
	for _, addr := range q.Addresses(answersKept) {
		c.Answers = append(c.Answers, addr.String())
	}
	return c
}
