// Package engine runs NATS servers with JetStream in this process, for tests and for the demo of a fleet: one, or several that make a
// cluster. They listen on loopback only.
//
// It is no part of a gateway, which only knows package jetstream, and it does not know what is stored.
package engine

import (
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats-server/v2/server"
)

// Options say which servers to run.
type Options struct {
	// Dir has a folder for what each server stores. If empty, it is a temporary one that Close removes.
	Dir string
	// Port is that of the first server; the others have the ports after it. If 0, each has a free one, which it keeps.
	Port int
	// Cluster is how many servers there are. If 0, one.
	Cluster int
	// SyncAlways makes a server acknowledge only what is on its disk, as a fleet's should.
	SyncAlways bool
	// ConfigFile is a server's configuration, with accounts and users for example. Addresses, names, cluster and folder of it do not
	// count.
	ConfigFile string
	// Log, if not empty, is a file for what the servers say.
	Log string
}

// Engine is one or several servers. It is safe for concurrent use.
type Engine struct {
	options Options
	temp    string // Dir, if it is ours
	ports   []int
	routes  []*url.URL

	mu      sync.Mutex // guards below
	servers []*server.Server
}

// mostConsumers is how many watches a bucket may have, as in deploy/nats. The default of nats-server is 1,000.
const mostConsumers = 10_000

// readyTime bounds how long servers take until they serve.
const readyTime = time.Minute

// Start starts the servers, and waits until they serve.
func Start(o Options) (*Engine, error) {
	e := &Engine{options: o}
	if e.options.Cluster == 0 {
		e.options.Cluster = 1
	}
	if o.Dir == "" {
		temp, err := os.MkdirTemp("", "penstock-engine-")
		if err != nil {
			return nil, err
		}
		e.options.Dir, e.temp = temp, temp
	}
	if err := e.choosePorts(); err != nil {
		e.Close()
		return nil, err
	}
	e.servers = make([]*server.Server, e.options.Cluster)
	if err := e.Restart(); err != nil {
		e.Close()
		return nil, err
	}
	return e, nil
}

// choosePorts finds ports for clients and, in a cluster, for the servers.
func (e *Engine) choosePorts() error {
	n := e.options.Cluster
	free, err := freePorts(2 * n)
	if err != nil {
		return err
	}
	e.ports = free[:n]
	for i := range e.ports {
		if e.options.Port != 0 {
			e.ports[i] = e.options.Port + i
		}
	}
	for _, port := range free[n:] {
		if n > 1 {
			e.routes = append(e.routes, &url.URL{Scheme: "nats", Host: loopback(port)})
		}
	}
	return nil
}

// freePorts returns TCP ports that nobody used a moment ago.
func freePorts(n int) ([]int, error) {
	var ports []int
	for range n {
		l, err := net.Listen("tcp", loopback(0))
		if err != nil {
			return nil, err
		}
		defer l.Close()
		ports = append(ports, l.Addr().(*net.TCPAddr).Port)
	}
	return ports, nil
}

func loopback(port int) string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(port)) }

// URL returns the addresses of all servers, with commas between them.
func (e *Engine) URL() string { return strings.Join(e.URLs(), ",") }

// URLs returns the address of each server.
func (e *Engine) URLs() []string {
	var urls []string
	for _, port := range e.ports {
		urls = append(urls, "nats://"+loopback(port))
	}
	return urls
}

// Kill ends servers, all if none is named, by their number from 0. Clients and the other servers are told nothing: they find out. It
// imitates a crash of the process only as far as one process can: what a server holds in memory for its files is still written.
func (e *Engine) Kill(servers ...int) {
	e.mu.Lock()
	defer e.mu.Unlock()
	var ends sync.WaitGroup
	for _, i := range e.chosen(servers) {
		if s := e.servers[i]; s != nil {
			ends.Go(func() { s.Shutdown(); s.WaitForShutdown() })
			e.servers[i] = nil
		}
	}
	ends.Wait()
}

// Wipe ends servers, all if none is named, and removes all that they have stored.
func (e *Engine) Wipe(servers ...int) error {
	e.Kill(servers...)
	var errs []error
	for _, i := range e.chosen(servers) {
		errs = append(errs, os.RemoveAll(e.folder(i)))
	}
	return errors.Join(errs...)
}

// Restart starts the servers that do not run, of those named or of all, and waits until they serve. Those of a cluster serve when
// most of them run.
func (e *Engine) Restart(servers ...int) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, i := range e.chosen(servers) {
		if e.servers[i] != nil {
			continue
		}
		s, err := e.start(i)
		if err != nil {
			return err
		}
		e.servers[i] = s
	}
	return e.waitLocked()
}

// Close ends all servers, and removes the folder if it was temporary. It can be called twice.
func (e *Engine) Close() error {
	e.Kill()
	if e.temp == "" {
		return nil
	}
	return os.RemoveAll(e.temp)
}

func (e *Engine) chosen(servers []int) []int {
	if len(servers) > 0 {
		return servers
	}
	for i := range e.servers {
		servers = append(servers, i)
	}
	return servers
}

func (e *Engine) folder(i int) string {
	return filepath.Join(e.options.Dir, fmt.Sprintf("server%d", i+1))
}

// start starts a server.
func (e *Engine) start(i int) (*server.Server, error) {
	o := &server.Options{}
	if e.options.ConfigFile != "" {
		if err := o.ProcessConfigFile(e.options.ConfigFile); err != nil {
			return nil, err
		}
	}
	o.ServerName = fmt.Sprintf("server%d", i+1)
	o.Host, o.Port = "127.0.0.1", e.ports[i]
	o.HTTPPort, o.HTTPSPort = 0, 0
	o.JetStream, o.StoreDir = true, e.folder(i)
	o.SyncAlways = o.SyncAlways || e.options.SyncAlways
	if o.JetStreamLimits.DefaultMaxConsumers == 0 {
		o.JetStreamLimits.DefaultMaxConsumers = mostConsumers
	}
	o.NoSigs, o.NoLog = true, e.options.Log == ""
	o.LogFile = e.options.Log
	o.Cluster, o.Routes = server.ClusterOpts{}, nil
	if len(e.routes) > 0 {
		port, err := strconv.Atoi(e.routes[i].Port())
		if err != nil {
			return nil, err
		}
		o.Cluster = server.ClusterOpts{Name: "fleet", Host: "127.0.0.1", Port: port, NoAdvertise: true}
		o.Routes = e.routes
	}
	s, err := server.NewServer(o)
	if err != nil {
		return nil, err
	}
	s.ConfigureLogger()
	go s.Start() // it returns, or ends with Shutdown
	if !s.ReadyForConnections(readyTime) {
		s.Shutdown()
		return nil, fmt.Errorf("server %d does not serve", i+1)
	}
	return s, nil
}

// waitLocked waits until a cluster whose majority runs has a leader, and each server that runs follows it.
func (e *Engine) waitLocked() error {
	var running []*server.Server
	for _, s := range e.servers {
		if s != nil {
			running = append(running, s)
		}
	}
	if len(e.servers) == 1 || 2*len(running) <= len(e.servers) {
		return nil
	}
	for end := time.Now().Add(readyTime); ; time.Sleep(20 * time.Millisecond) {
		leads, current := 0, 0
		for _, s := range running {
			if s.JetStreamIsLeader() {
				leads++
			}
			if s.JetStreamIsCurrent() {
				current++
			}
		}
		switch {
		case leads == 1 && current == len(running):
			return nil
		case time.Now().After(end):
			return errors.New("the servers do not agree on a leader")
		}
	}
}
