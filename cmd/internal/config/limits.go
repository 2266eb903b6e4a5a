package config

import (
	"fmt"
	"reflect"
	"time"
)

// Limits bound what a hostile neighbour can make penstock hold. Every refusal is counted with its reason.
type Limits struct {
	// Dials is how many dials may be in flight at once. One client may have two thirds of them.
	Dials int `yaml:"dials" default:"4096"`
	// TCPFlows is how many TCP flows may be open at once. Of a client that has an eighth of them or more, those that cross and whose
	// handshake is not over end after 10 s of silence.
	TCPFlows int `yaml:"tcp_flows" default:"16384"`
	// UDPFlows is how many UDP flows may be open at once. The least recently used one makes room.
	UDPFlows int `yaml:"udp_flows" default:"8192"`
	// UDPFlowsPerClient is how many of them one client may hold while others want some. While it holds more, those that have carried
	// nothing after their first 2 s end after 30 s at most.
	UDPFlowsPerClient int `yaml:"udp_flows_per_client" default:"2048"`
	// UDPIdle is how long a UDP flow may carry nothing before it ends. One that nobody has answered ends after 30 s at most.
	UDPIdle time.Duration `yaml:"udp_idle" default:"2m"`
	// UDPIdleShort is the same for ports 53, 123 and 3478, and for flows that only ICMP errors have answered.
	UDPIdleShort time.Duration `yaml:"udp_idle_short" default:"10s"`
	// UDPIdleQUIC is the same for port 443.
	UDPIdleQUIC time.Duration `yaml:"udp_idle_quic" default:"30s"`
	// TCPKeepalive is how long a TCP flow may be idle before it is probed.
	TCPKeepalive time.Duration `yaml:"tcp_keepalive" default:"5m"`
	// TCPKeepaliveInterval is the time between such probes. Four in a row without an answer end the flow.
	TCPKeepaliveInterval time.Duration `yaml:"tcp_keepalive_interval" default:"75s"`
	// ProxyConnections is how many clients may be connected to listen.proxy at once. One client may have half of them.
	ProxyConnections int `yaml:"proxy_connections" default:"4096"`
	// SniffTime is how long a flow is read for a host name.
	SniffTime time.Duration `yaml:"sniff_time" default:"300ms"`
	// DNSQueries is how many DNS questions may be in flight at once.
	DNSQueries int `yaml:"dns_queries" default:"1024"`
	// DNSCacheEntries bounds the DNS cache in answers.
	DNSCacheEntries int `yaml:"dns_cache_entries" default:"65536"`
	// DNSCacheSize bounds the DNS cache in memory.
	DNSCacheSize Size `yaml:"dns_cache_size" default:"16MiB"`
	// RejectStorm is how many refusals to one source within reject_window turn into silence.
	RejectStorm int `yaml:"reject_storm" default:"50"`
	// RejectWindow is the time within which refusals are counted.
	RejectWindow time.Duration `yaml:"reject_window" default:"30s"`
}

// limit is one of the limits as a number, with what it may be.
type limit struct {
	key                string
	value, least, most int64
	text               string // the value as it is written
	bounds             string // least and most in words
}

// numbers lists all limits, in the order of the struct.
func (l Limits) numbers() []limit {
	v := reflect.ValueOf(l)
	limits := make([]limit, v.NumField())
	for i := range limits {
		n := limit{key: v.Type().Field(i).Tag.Get("yaml"), value: v.Field(i).Int(), text: fmt.Sprint(v.Field(i))}
		switch v.Field(i).Interface().(type) {
		case time.Duration:
			n.least, n.most, n.bounds = int64(time.Millisecond), int64(30*24*time.Hour), "a time from 1ms to 720h"
		case Size:
			n.least, n.most, n.bounds = 4<<10, 1<<40, "a size from 4KiB to 1024GiB"
		default:
			n.least, n.most, n.bounds = 1, 1<<24, "a number from 1 to 16777216"
		}
		limits[i] = n
	}
	return limits
}
