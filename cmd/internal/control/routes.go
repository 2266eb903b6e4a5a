package control

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
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

// routes is the whole interface: one POST path per function, a JSON object in and out.
func (s *Server) routes() http.Handler {
	c := s.config
	mux := http.NewServeMux()
	handle(s, mux, "status", reading, c.Status != nil, func(ctx context.Context, _ struct{}) (Status, error) {
		out, err := c.Status(ctx)
		out.APIVersion = APIVersion
		return out, err
	})
	handle(s, mux, "flows", reading, c.Flows != nil, func(ctx context.Context, q FlowQuery) (Flows, error) {
		flows, err := c.Flows(ctx, q)
		return Flows{APIVersion, flows}, err
	})
	handle(s, mux, "explain", reading, c.Explain != nil, func(ctx context.Context, q ExplainQuery) (Explanation, error) {
		out, err := c.Explain(ctx, q)
		out.APIVersion = APIVersion
		return out, err
	})
	handle(s, mux, "rules", reading, c.Rules != nil, func(ctx context.Context, _ struct{}) (Rules, error) {
		out, err := c.Rules(ctx)
		out.APIVersion = APIVersion
		return out, err
	})
	handle(s, mux, "dns/query", reading, c.DNSQuery != nil, func(ctx context.Context, q DNSQuery) (DNSAnswer, error) {
		out, err := c.DNSQuery(ctx, q)
		out.APIVersion = APIVersion
		return out, err
	})
	handle(s, mux, "lists", reading, c.Lists != nil, func(ctx context.Context, _ struct{}) (Lists, error) {
		lists, err := c.Lists(ctx)
		return Lists{APIVersion, lists}, err
	})
	handle(s, mux, "lists/lookup", reading, c.ListLookup != nil, func(ctx context.Context, q named) (ListHits, error) {
		hits, err := c.ListLookup(ctx, q.Name)
		return ListHits{APIVersion, q.Name, hits}, err
	})
	handle(s, mux, "peers", reading, c.Peers != nil, func(ctx context.Context, _ struct{}) (Peers, error) {
		peers, err := c.Peers(ctx)
		return Peers{APIVersion, peers}, err
	})

	handle(s, mux, "flows/kill", changing, c.KillFlow != nil, func(ctx context.Context, q named) (Done, error) {
		return Done{APIVersion: APIVersion}, c.KillFlow(ctx, q.Name)
	})
	handle(s, mux, "reload", changing, c.Reload != nil, func(ctx context.Context, q ReloadQuery) (Reloaded, error) {
		out, err := c.Reload(ctx, q)
		out.APIVersion = APIVersion
		return out, err
	})
	for name, steer := range map[string]func(context.Context, Steer) error{"up": c.Up, "down": c.Down, "reconnect": c.Reconnect} {
		handle(s, mux, name, changing, steer != nil, func(ctx context.Context, q Steer) (Done, error) {
			return Done{APIVersion: APIVersion}, steer(ctx, q)
		})
	}
	handle(s, mux, "dns/flush", changing, c.DNSFlush != nil, func(ctx context.Context, _ struct{}) (Done, error) {
		return Done{APIVersion: APIVersion}, c.DNSFlush(ctx)
	})
	handle(s, mux, "lists/refresh", changing, c.ListRefresh != nil, func(ctx context.Context, _ struct{}) (Done, error) {
		return Done{APIVersion: APIVersion}, c.ListRefresh(ctx)
	})
	handle(s, mux, "allow", changing, c.Allow != nil, func(ctx context.Context, q AllowQuery) (Allowed, error) {
		out, err := c.Allow(ctx, q)
		out.APIVersion = APIVersion
		return out, err
	})
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		refuse(w, http.StatusNotFound, fmt.Sprintf("there is no %s here", r.URL.Path))
	})
	return guard(mux)
}

// named is the body of a call about one thing.
type named struct {
	Name string `json:"name"`
}

// handle serves POST /v1/name.
func handle[In, Out any](s *Server, mux *http.ServeMux, name string, need access, has bool, f func(context.Context, In) (Out, error)) {
	mux.HandleFunc("POST /v1/"+name, func(w http.ResponseWriter, r *http.Request) {
		who := callerFrom(r.Context())
		if need == changing && !who.mayChange() {
			refuse(w, http.StatusForbidden, fmt.Sprintf("%s changes the running penstock: only root and its own user may; run it with sudo", name))
			return
		}
		if !has {
			refuse(w, http.StatusNotImplemented, fmt.Sprintf("the running penstock does not offer %s", name))
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
		if err != nil {
			refuse(w, http.StatusUnprocessableEntity, err.Error())
			return
		}
		if need == changing {
			s.log.Info("control", "call", name, "uid", who.uid)
		}
		w.Header().Set("Content-Type", "application/json")
		if err := json.NewEncoder(w).Encode(out); err != nil {
			s.log.Debug("control answer not delivered", "call", name, "err", err)
		}
	})
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

func refuse(w http.ResponseWriter, status int, text string) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	json.NewEncoder(w).Encode(failure{APIVersion, text}) // a caller that left does not hear why
}
