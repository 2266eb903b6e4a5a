package bundle

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"reflect"
	"strings"
	"text/tabwriter"
	"time"

	"penstock/cmd/internal/config"
	"penstock/cmd/internal/control"
)

const (
	folder      = "penstock-bundle/"
	mostText    = 2 << 20 // bytes of one file, before it is cleaned
	mostFlows   = 200     // of each kind
	askLimit    = 5 * time.Second
	logLines    = 500
	commandTime = 5 * time.Second
)

// Running is a penstock that runs. *control.Client is one.
type Running interface {
	Status(context.Context) (control.Status, error)
	Rules(context.Context) (control.Rules, error)
	Lists(context.Context) (control.Lists, error)
	Peers(context.Context) (control.Peers, error)
	Flows(context.Context, control.FlowQuery) (control.Flows, error)
}

// Config says what is put into an archive.
type Config struct {
	Running Running // nil where Absent says why none can be asked
	Absent  error
	// Loaded is the configuration. It is nil where Fault says why there is none.
	Loaded   *config.Config
	Fault    error
	Findings []control.Finding // of doctor
	Version  string
	// Names keeps names and addresses. Secrets are left out all the same.
	Names bool
	Now   time.Time
}

// File is one of an archive.
type File struct {
	Name string
	What string // one line for people
	Text []byte
}

// Missing is what could not be put in.
type Missing struct{ What, Why string }

// Bundle is the content of an archive.
type Bundle struct {
	Files   []File
	Missing []Missing

	cfg   Config
	clean *scrubber
}

// Collect collects what is put into an archive. What cannot be had is in Missing; it fails only if ctx ends.
func Collect(ctx context.Context, cfg Config) (*Bundle, error) {
	b := &Bundle{cfg: cfg, clean: newScrubber(cfg.Names)}
	b.clean.learnHost()
	if cfg.Loaded != nil {
		b.clean.learn(cfg.Loaded)
	}
	peers, flows, refused := b.people(ctx)
	b.text("version.txt", "the version", cfg.Version, nil)
	b.findings()
	answer(b, "status.json", "the state, with the transports", first(ask(ctx, cfg, Running.Status)))
	answer(b, "rules.json", "the rules, with how often each has decided", first(ask(ctx, cfg, Running.Rules)))
	answer(b, "lists.json", "the lists, with their entries and errors", first(ask(ctx, cfg, Running.Lists)))
	answer(b, "peers.json", "the peers of a gateway", peers)
	answer(b, "flows.json", "the last flows", flows)
	answer(b, "refused.json", "the last refused flows and questions", refused)
	b.configuration()
	b.metrics(ctx)
	b.system(ctx)
	return b, ctx.Err()
}

// result is an answer or the reason why there is none.
type result struct {
	is  any
	err error
}

func first[T any](is T, err error) result { return result{is, err} }

// ask asks the running penstock.
func ask[T any](ctx context.Context, cfg Config, f func(Running, context.Context) (T, error)) (T, error) {
	if cfg.Running == nil {
		var none T
		return none, cfg.Absent
	}
	ctx, cancel := context.WithTimeout(ctx, askLimit)
	defer cancel()
	return f(cfg.Running, ctx)
}

// add adds a file whose text is clean.
func (b *Bundle) add(name, what string, text []byte) {
	b.Files = append(b.Files, File{name, what, b.clean.sweep(text)})
}

// miss notes what could not be had.
func (b *Bundle) miss(what string, err error) {
	first, _, _ := strings.Cut(err.Error(), "\n")
	why := b.clean.text(first)
	for i := range b.Missing {
		if b.Missing[i].Why == why {
			b.Missing[i].What += "; " + what
			return
		}
	}
	b.Missing = append(b.Missing, Missing{what, why})
}

// text cleans and adds a text.
func (b *Bundle) text(name, what, text string, err error) {
	if err != nil {
		b.miss(what, err)
		return
	}
	b.add(name, what, []byte(b.clean.lines(bounded(text))))
}

// bounded returns the end of a text that is too long, from a whole line on.
func bounded(text string) string {
	if len(text) <= mostText {
		return text
	}
	text = text[len(text)-mostText:]
	_, text, _ = strings.Cut(text, "\n")
	return "(the beginning is left out)\n" + text
}

// answer cleans and adds an answer as JSON.
func answer(b *Bundle, name, what string, r result) {
	if r.err != nil {
		b.miss(what, r.err)
		return
	}
	text, err := b.clean.json(r.is)
	if err != nil {
		b.miss(what, err)
		return
	}
	b.add(name, what, append(text, '\n'))
}

// findings adds doctor's table.
func (b *Bundle) findings() {
	var text bytes.Buffer
	table := tabwriter.NewWriter(&text, 0, 8, 2, ' ', 0)
	fmt.Fprintln(table, "CHECK\tRESULT\tFOUND\tMEND")
	for _, f := range b.cfg.Findings {
		fmt.Fprintf(table, "%s\t%s\t%s\t%s\n", b.clean.text(f.Name), f.Result, b.clean.text(f.Found), b.clean.text(f.Mend))
	}
	table.Flush() // into memory
	b.add("doctor.txt", "what doctor found", text.Bytes())
}

// people asks for what names people and hosts, and learns the names: they may stand anywhere.
func (b *Bundle) people(ctx context.Context) (peers, flows, refused result) {
	list, err := ask(ctx, b.cfg, Running.Peers)
	for _, p := range list.Peers {
		b.clean.know(p.Name, "peer")
		b.clean.know(p.User, "user")
	}
	return result{list, err}, b.flows(ctx, control.FlowQuery{Recent: true}), b.flows(ctx, control.FlowQuery{Denied: true})
}

// flows asks for the last flows that match, and learns their names.
func (b *Bundle) flows(ctx context.Context, query control.FlowQuery) result {
	list, err := ask(ctx, b.cfg, func(r Running, ctx context.Context) (control.Flows, error) { return r.Flows(ctx, query) })
	if n := len(list.Flows); n > mostFlows {
		list.Flows = list.Flows[n-mostFlows:]
	}
	for _, f := range list.Flows {
		b.clean.know(f.Peer, "peer")
		for _, n := range append(f.Names, control.Name{Host: f.Host}) {
			b.clean.learnText("host", n.Host)
		}
	}
	return result{list, err}
}

// configuration adds the expanded configuration.
func (b *Bundle) configuration() {
	const what = "the configuration with its defaults, without its secrets"
	switch {
	case b.cfg.Loaded != nil:
		answer(b, "configuration.json", what, result{expanded(reflect.ValueOf(b.cfg.Loaded)), nil})
	case b.cfg.Fault != nil:
		b.miss(what, b.cfg.Fault)
	default:
		b.miss(what, errors.New("there is none"))
	}
}

// metrics adds what Prometheus would read, and of that what the process takes of the machine.
func (b *Bundle) metrics(ctx context.Context) {
	text, err := b.scrape(ctx)
	b.text("metrics.txt", "the metrics", text, err)
	var process strings.Builder
	for line := range strings.Lines(text) {
		if strings.HasPrefix(line, "go_goroutines ") || strings.HasPrefix(line, "go_memstats_") || strings.HasPrefix(line, "process_") {
			process.WriteString(line)
		}
	}
	b.text("process.txt", "goroutines, memory and files of the process", process.String(), err)
}

func (b *Bundle) scrape(ctx context.Context) (string, error) {
	switch {
	case b.cfg.Running == nil:
		return "", b.cfg.Absent
	case b.cfg.Loaded == nil || b.cfg.Loaded.Metrics.Listen == "":
		return "", errors.New("metrics.listen is not set")
	}
	ctx, cancel := context.WithTimeout(ctx, askLimit)
	defer cancel()
	host, port, err := net.SplitHostPort(b.cfg.Loaded.Metrics.Listen)
	if err != nil {
		return "", err
	}
	if host == "" || host == "0.0.0.0" || host == "::" {
		host = "localhost"
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+net.JoinHostPort(host, port)+"/metrics", nil)
	if err != nil {
		return "", err
	}
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true}} // without a proxy
	resp, err := client.Do(req)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(io.LimitReader(resp.Body, mostText))
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s answers with status %d", b.cfg.Loaded.Metrics.Listen, resp.StatusCode)
	}
	return string(text), err
}

// contents says what is in the archive, and what is not.
func (b *Bundle) contents() []byte {
	var text bytes.Buffer
	fmt.Fprintf(&text, "A support archive of penstock, made on %s.\n", b.cfg.Now.UTC().Format(time.DateTime))
	if b.cfg.Names {
		fmt.Fprintln(&text, "Names and addresses are as they are. Secrets are left out.")
	} else {
		fmt.Fprintln(&text, "Names and addresses are hashes: the same name has the same hash in this archive alone. Secrets are left out.")
	}
	fmt.Fprintln(&text)
	for _, f := range b.Files {
		fmt.Fprintf(&text, "%s: %s\n", f.Name, f.What)
	}
	for _, m := range b.Missing {
		fmt.Fprintf(&text, "\nmissing: %s: %s\n", m.What, m.Why)
	}
	return text.Bytes()
}

// Write writes the archive: a tar file, compressed with gzip. Beside Files it has README.txt, which says what is in it.
func (b *Bundle) Write(w io.Writer) error {
	zip := gzip.NewWriter(w)
	archive := tar.NewWriter(zip)
	for _, f := range append([]File{{Name: "README.txt", Text: b.clean.sweep(b.contents())}}, b.Files...) {
		head := &tar.Header{Name: folder + f.Name, Mode: 0o600, Size: int64(len(f.Text)), ModTime: b.cfg.Now.Truncate(time.Second)}
		if err := archive.WriteHeader(head); err != nil {
			return fmt.Errorf("bundle: %s: %w", f.Name, err)
		}
		if _, err := archive.Write(f.Text); err != nil {
			return fmt.Errorf("bundle: %s: %w", f.Name, err)
		}
	}
	if err := errors.Join(archive.Close(), zip.Close()); err != nil {
		return fmt.Errorf("bundle: %w", err)
	}
	return nil
}
