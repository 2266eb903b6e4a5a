package control

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"reflect"
	"slices"
	"strings"
)

// maxBody bounds a request's body, bytes.
const maxBody = 64 << 10

// access is what a call needs.
type access bool

const (
	reading  access = false
	changing access = true
)

// failure is the body of every answer that is not 200.
type failure struct {
	APIVersion string `json:"apiVersion"`
	Error      string `json:"error"`
}

// API serves what config offers: one POST path per call, a JSON object in and out. Whoever passes requests on to it must know who
// sends them and say so with As; a request of nobody may not change anything, and must not be passed on at all if it may not read.
func API(config Config) http.Handler {
	p := &paths{log: cmp.Or(config.Logger, slog.New(slog.DiscardHandler))}
	config.readingRoutes(p)
	config.changingRoutes(p)
	events := &streams{config: config}
	p.mux.Handle("POST /v1/events", events)
	if events.offered() {
		p.offered = append(p.offered, "events")
	}
	handle(p, "calls", reading, true, func(context.Context, struct{}) (Calls, error) {
		return Calls{APIVersion, slices.Clone(p.offered)}, nil
	})
	p.mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		refuse(w, http.StatusNotFound, fmt.Sprintf("there is no %s here", r.URL.Path))
	})
	return &p.mux
}

func (c Config) readingRoutes(p *paths) {
	handle(p, "status", reading, c.Process != nil, func(ctx context.Context, _ struct{}) (Status, error) {
		out, err := c.Process.Status(ctx)
		out.APIVersion = APIVersion
		return out, err
	})
	handle(p, "flows", reading, c.Flows != nil, func(ctx context.Context, q FlowQuery) (Flows, error) {
		flows, err := c.Flows.Flows(ctx, q)
		return Flows{APIVersion, flows}, err
	})
	handle(p, "explain", reading, c.Policy != nil, func(ctx context.Context, q ExplainQuery) (Explanation, error) {
		out, err := c.Policy.Explain(ctx, q)
		out.APIVersion = APIVersion
		return out, err
	})
	handle(p, "rules", reading, c.Policy != nil, func(ctx context.Context, _ struct{}) (Rules, error) {
		out, err := c.Policy.Rules(ctx)
		out.APIVersion = APIVersion
		return out, err
	})
	handle(p, "decisions", reading, c.Decisions != nil, func(ctx context.Context, _ struct{}) (Decisions, error) {
		out, err := c.Decisions.Decisions(ctx)
		out.APIVersion = APIVersion
		return out, err
	})
	handle(p, "dns/query", reading, c.DNS != nil, func(ctx context.Context, q DNSQuery) (DNSAnswer, error) {
		out, err := c.DNS.DNSQuery(ctx, q)
		out.APIVersion = APIVersion
		return out, err
	})
	handle(p, "lists", reading, c.Lists != nil, func(ctx context.Context, _ struct{}) (Lists, error) {
		lists, err := c.Lists.Lists(ctx)
		return Lists{APIVersion, lists}, err
	})
	handle(p, "lists/lookup", reading, c.Lists != nil, func(ctx context.Context, q named) (ListHits, error) {
		hits, err := c.Lists.ListLookup(ctx, q.Name)
		return ListHits{APIVersion, q.Name, hits}, err
	})
	handle(p, "sign-ins", reading, c.Transports != nil, func(ctx context.Context, q Steer) (SignIns, error) {
		list, err := c.Transports.SignIns(ctx, q)
		return SignIns{APIVersion, list}, err
	})
	handle(p, "peers", reading, c.Peers != nil, func(ctx context.Context, _ struct{}) (Peers, error) {
		peers, err := c.Peers.Peers(ctx)
		return Peers{APIVersion, peers}, err
	})
	handle(p, "invites", reading, c.Invites != nil, func(ctx context.Context, _ struct{}) (Invitations, error) {
		list, err := c.Invites.Invitations(ctx)
		return Invitations{APIVersion, list}, err
	})
	handle(p, "history/records", reading, c.History != nil, func(ctx context.Context, q RecordQuery) (Records, error) {
		out, err := c.History.Records(ctx, q)
		out.APIVersion = APIVersion
		return out, err
	})
	handle(p, "history/totals", reading, c.History != nil, func(ctx context.Context, q TotalsQuery) (Totals, error) {
		out, err := c.History.Totals(ctx, q)
		out.APIVersion = APIVersion
		return out, err
	})
	handle(p, "rights", reading, true, func(ctx context.Context, _ struct{}) (Rights, error) {
		return Rights{APIVersion, MayChange(ctx)}, nil
	})
	handle(p, "samples", reading, c.Feed != nil, func(ctx context.Context, _ struct{}) (Samples, error) {
		list, err := c.Feed.Samples(ctx)
		return Samples{APIVersion, list}, err
	})
	handle(p, "console", reading, c.Console != nil, func(ctx context.Context, _ struct{}) (ConsoleLink, error) {
		out, err := c.Console.Link(ctx)
		out.APIVersion = APIVersion
		return out, err
	})
	handle(p, "doctor", reading, c.Doctor != nil, func(ctx context.Context, _ struct{}) (Findings, error) {
		list, err := c.Doctor.Doctor(ctx)
		return Findings{APIVersion, list}, err
	})
}

func (c Config) changingRoutes(p *paths) {
	done := Done{APIVersion: APIVersion}
	handle(p, "flows/kill", changing, c.Flows != nil, func(ctx context.Context, q named) (Done, error) {
		return done, c.Flows.KillFlow(ctx, q.Name)
	})
	handle(p, "reload", changing, c.Process != nil, func(ctx context.Context, q ReloadQuery) (Reloaded, error) {
		out, err := c.Process.Reload(ctx, q)
		out.APIVersion = APIVersion
		return out, err
	})
	handle(p, "drain", changing, c.Process != nil, func(ctx context.Context, o DrainOrder) (Done, error) {
		return done, c.Process.Drain(ctx, o)
	})
	handle(p, "up", changing, c.Transports != nil, func(ctx context.Context, q Steer) (Done, error) {
		return done, c.Transports.Up(ctx, q)
	})
	handle(p, "down", changing, c.Transports != nil, func(ctx context.Context, q Steer) (Done, error) {
		return done, c.Transports.Down(ctx, q)
	})
	handle(p, "reconnect", changing, c.Transports != nil, func(ctx context.Context, q Steer) (Done, error) {
		return done, c.Transports.Reconnect(ctx, q)
	})
	handle(p, "answer", changing, c.Transports != nil, func(ctx context.Context, q AnswerQuery) (Done, error) {
		return done, c.Transports.Answer(ctx, q)
	})
	handle(p, "peers/sign-out", changing, c.Peers != nil, func(ctx context.Context, q named) (Done, error) {
		return done, c.Peers.SignOut(ctx, q.Name)
	})
	handle(p, "peers/access", changing, c.Peers != nil, func(ctx context.Context, q PeerAccess) (Done, error) {
		return done, c.Peers.SetPeerAccess(ctx, q)
	})
	handle(p, "dns/flush", changing, c.DNS != nil, func(ctx context.Context, _ struct{}) (Done, error) {
		return done, c.DNS.DNSFlush(ctx)
	})
	handle(p, "lists/refresh", changing, c.Lists != nil, func(ctx context.Context, _ struct{}) (Done, error) {
		return done, c.Lists.ListRefresh(ctx)
	})
	handle(p, "peers/quota/reset", changing, c.Peers != nil, func(ctx context.Context, q named) (Done, error) {
		return done, c.Peers.PeerQuotaReset(ctx, q.Name)
	})
	handle(p, "allow", changing, c.Decisions != nil, func(ctx context.Context, q AllowQuery) (Allowed, error) {
		out, err := c.Decisions.Allow(ctx, q)
		out.APIVersion = APIVersion
		return out, err
	})
	handle(p, "block", changing, c.Decisions != nil, func(ctx context.Context, q BlockQuery) (Blocked, error) {
		out, err := c.Decisions.Block(ctx, q)
		out.APIVersion = APIVersion
		return out, err
	})
	handle(p, "decisions/remove", changing, c.Decisions != nil, func(ctx context.Context, q DecisionRemoval) (DecisionRemoved, error) {
		out, err := c.Decisions.RemoveDecision(ctx, q)
		out.APIVersion = APIVersion
		return out, err
	})
	handle(p, "invite", changing, c.Invites != nil, func(ctx context.Context, q InviteQuery) (Invited, error) {
		out, err := c.Invites.Invite(ctx, q)
		out.APIVersion = APIVersion
		return out, err
	})
	handle(p, "uninvite", changing, c.Invites != nil, func(ctx context.Context, q named) (Done, error) {
		return done, c.Invites.Uninvite(ctx, q.Name)
	})
}

// paths is the interface while it is put together.
type paths struct {
	mux     http.ServeMux
	log     *slog.Logger
	offered []string // names of the calls
}

// named is the body of a call about one thing.
type named struct {
	Name string `json:"name"`
}

// handle serves POST /v1/name with f, or refuses where that is not offered.
func handle[In, Out any](p *paths, name string, need access, offered bool, f func(context.Context, In) (Out, error)) {
	if offered {
		p.offered = append(p.offered, name)
	}
	p.mux.HandleFunc("POST /v1/"+name, func(w http.ResponseWriter, r *http.Request) {
		who := callerFrom(r.Context())
		if need == changing && !who.mayChange {
			refuse(w, http.StatusForbidden, fmt.Sprintf("%s changes the running penstock: only root and its own user may; run it with sudo", name))
			return
		}
		if !offered {
			refuseNotOffered(w, name)
			return
		}
		var in In
		decoder := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxBody))
		decoder.DisallowUnknownFields()
		if err := decoder.Decode(&in); err != nil && !errors.Is(err, io.EOF) {
			refuse(w, http.StatusBadRequest, fmt.Sprintf("%s: the request is not the JSON expected: %v", name, err))
			return
		}
		out, err := f(r.Context(), in)
		switch {
		case errors.Is(err, ErrNotOffered):
			refuseNotOffered(w, name)
			return
		case err != nil:
			refuse(w, http.StatusUnprocessableEntity, err.Error())
			return
		}
		if need == changing {
			p.log.Info("control", "call", name, "by", who.name)
		}
		fillLists(&out)
		w.Header().Set("Content-Type", "application/json")
		if err := json.NewEncoder(w).Encode(out); err != nil {
			p.log.Debug("control answer not delivered", "call", name, "err", err)
		}
	})
}

// fillLists makes the nil lists of an answer empty ones, which are [] in JSON. Scripts cannot walk through null.
func fillLists(answer any) {
	v := reflect.ValueOf(answer).Elem()
	for i := range v.NumField() {
		if f := v.Field(i); f.Kind() == reflect.Slice && f.IsNil() && !strings.Contains(v.Type().Field(i).Tag.Get("json"), "omitempty") {
			f.Set(reflect.MakeSlice(f.Type(), 0, 0))
		}
	}
}

// guard refuses what a browser could be made to send: the socket is not for the web.
func guard(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case r.Host != host && r.Host != "localhost":
			refuse(w, http.StatusForbidden, "the Host header must be localhost")
		case r.Header.Get("Origin") != "":
			refuse(w, http.StatusForbidden, "requests from web pages are refused")
		default:
			next.ServeHTTP(w, r)
		}
	})
}

func refuseNotOffered(w http.ResponseWriter, name string) {
	refuse(w, http.StatusNotImplemented, fmt.Sprintf("the running penstock does not offer %s", name))
}

func refuse(w http.ResponseWriter, status int, text string) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	json.NewEncoder(w).Encode(failure{APIVersion, text}) // fails only if the caller has left
}
