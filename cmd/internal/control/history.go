package control

import (
	"context"
	"time"
)

// Question is one DNS question with its answer. The names of its fields are those of the flow log, as far as that has such a field.
type Question struct {
	Proto    string    `json:"proto"` // dns
	Src      string    `json:"src"`
	Peer     string    `json:"peer,omitempty"`
	Host     string    `json:"host"`
	Type     string    `json:"type"` // A, AAAA, ...
	Verdict  string    `json:"verdict"`
	Rule     string    `json:"rule,omitempty"`
	Category string    `json:"category,omitempty"`
	Decided  string    `json:"decided,omitempty"` // the name that decided: Host, or one behind it
	Result   string    `json:"result"`            // as in the metric penstock_dns_queries_total
	Rcode    string    `json:"rcode,omitempty"`   // empty: there was no answer
	Answers  []string  `json:"answers,omitempty"` // some of the addresses in the answer
	Upstream string    `json:"upstream,omitempty"`
	Cache    string    `json:"cache,omitempty"` // hit, miss or stale
	Start    time.Time `json:"start"`
	End      time.Time `json:"end"`
	Sender
}

// Record is a flow that has ended, or a question that has its answer.
type Record struct {
	ID       int64     `json:"id"` // grows with time
	Flow     *Flow     `json:"flow,omitempty"`
	Question *Question `json:"question,omitempty"`
}

// RecordFilter selects records. Fields that are set must all match; the zero RecordFilter selects everything.
type RecordFilter struct {
	Kind     string    `json:"kind,omitempty"`    // flow or question
	Since    time.Time `json:"since,omitzero"`    // of their end
	Until    time.Time `json:"until,omitzero"`    // exclusive
	Blocked  bool      `json:"blocked,omitempty"` // refused or dropped
	Text     string    `json:"text,omitempty"`    // part of the host, client, destination, rule or category, in any case
	Client   string    `json:"client,omitempty"`  // peer, or address of a client that is none
	Host     string    `json:"host,omitempty"`    // that name and all below it
	Rule     string    `json:"rule,omitempty"`
	Category string    `json:"category,omitempty"`
}

// RecordQuery asks for records, newest first.
type RecordQuery struct {
	RecordFilter
	Before int64 `json:"before,omitempty"` // only those with a lower ID: the next page
	Limit  int   `json:"limit,omitempty"`  // default 200, at most 5000
}

// Records is a page of the history, newest first.
type Records struct {
	APIVersion string    `json:"apiVersion"`
	Records    []Record  `json:"records"`
	More       bool      `json:"more"`              // there may be older ones
	Next       int64     `json:"next,omitempty"`    // if so, Before of the next page
	Searched   time.Time `json:"searched,omitzero"` // if the page ends because the search took its time: how far back it came
	Oldest     time.Time `json:"oldest,omitzero"`   // of all records that are kept
}

// TotalsQuery asks for sums over records.
type TotalsQuery struct {
	RecordFilter
	By    string `json:"by"`              // hour, day, client, host, rule, category or verdict
	Limit int    `json:"limit,omitempty"` // of the sums; default 100, at most 5000. The largest are kept, of times the latest
}

// Totals is sums over records: of times in order, of others the largest first.
type Totals struct {
	APIVersion string  `json:"apiVersion"`
	Totals     []Total `json:"totals"`
}

// Total is a sum over records.
type Total struct {
	Key     string    `json:"key"`           // what the records have in common; of times their beginning
	Time    time.Time `json:"time,omitzero"` // of hours and days: their beginning
	Allowed uint64    `json:"allowed"`       // records that were neither refused nor dropped
	Blocked uint64    `json:"blocked"`
	TxBytes uint64    `json:"txBytes"`
	RxBytes uint64    `json:"rxBytes"`
}

// HistoryBook is what penstock has kept of flows and questions. It is nil where nothing is kept.
type HistoryBook interface {
	Records(context.Context, RecordQuery) (Records, error)
	Totals(context.Context, TotalsQuery) (Totals, error)
}

// Calls is which calls this penstock offers, in no order, so that nobody has to try them.
type Calls struct {
	APIVersion string   `json:"apiVersion"`
	Calls      []string `json:"calls"` // paths behind /v1/
}

// Rights is what the caller may do.
type Rights struct {
	APIVersion string `json:"apiVersion"`
	MayChange  bool   `json:"mayChange"` // else read only
}

// ConsoleLink opens the console once.
type ConsoleLink struct {
	APIVersion string    `json:"apiVersion"`
	URL        string    `json:"url"` // a secret: whoever opens it first is in
	Until      time.Time `json:"until"`
	ReadOnly   bool      `json:"readOnly"` // who asked may not change anything, and neither may the page
}

// Console is the page that people look at.
type Console interface {
	// Link makes a link that opens the console with the rights of the caller.
	Link(context.Context) (ConsoleLink, error)
}
