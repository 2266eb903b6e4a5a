package config

import "time"

// Fleet makes this gateway one of several that share their peers and rules. Those come from signed bundles; see docs/fleet.md.
type Fleet struct {
	// Site is the name of the site that this gateway belongs to. All gateways of a site have the same peers, rules and WireGuard key.
	Site string `yaml:"site" required:"true"`
	// Gateway is the name of this gateway, as the site's bundle has it.
	Gateway string `yaml:"gateway" required:"true"`
	// Key is this gateway's key from `penstock fleet keygen gateway`. It opens the secrets of a bundle.
	Key Secret `yaml:"key"`
	// Signers are the public keys of the operators whose first bundle is believed. Each bundle names those who may sign the next.
	Signers []string `yaml:"signers"`
	// Store is where bundles come from and where the gateways tell each other how they are.
	Store FleetStore `yaml:"store"`
	// Endpoint is where peers reach this gateway, host:port, for `penstock fleet status`. Without it the site's common one is told.
	Endpoint string `yaml:"endpoint"`
	// DrainLimit is the longest time for which a gateway that is drained, or does not reach its health targets, hands its peers
	// over to others.
	DrainLimit time.Duration `yaml:"drain_limit" default:"1m"`

	// Folder is where bundles are kept, below state_dir.
	Folder string   `yaml:"-"`
	Pos    Position `yaml:"-"`
}

// FleetStore is what the gateways of a fleet share: a folder, or NATS JetStream.
type FleetStore struct {
	// Dir is a folder that all gateways see, such as a network file system. One that can only be read, such as a mounted ConfigMap,
	// is enough for bundles; then peers are not handed over between gateways.
	Dir string `yaml:"dir" path:"written"`
	// NATS is a NATS server, or several of one cluster.
	NATS *NATS `yaml:"nats"`
}

// NATS is how to reach NATS.
type NATS struct {
	// Servers are URLs: tls://HOST:4222, or nats://HOST:4222 without encryption.
	Servers []string `yaml:"servers" required:"true"`
	// Credentials is a .creds file, with a JWT and an NKey seed.
	Credentials Secret `yaml:"credentials"`
	// NKey is a file with an NKey seed.
	NKey Secret `yaml:"nkey"`
	// CA is a file with the certificates that the servers' certificates must lead to. Default: those of the system.
	CA string `yaml:"ca" path:"file"`
	// Certificate and PrivateKey are what this gateway shows to servers that ask for a certificate.
	Certificate string `yaml:"certificate" path:"file"`
	PrivateKey  Secret `yaml:"private_key"`
	// Replicas is on how many servers the values are kept that must last. Penstock makes what is missing with it. 3 needs a cluster.
	Replicas int `yaml:"replicas" default:"3"`

	Pos Position `yaml:"-"`
}

// Site is what a bundle says of the site that it is for. Only bundles have it.
type Site struct {
	// Name of the site.
	Name string `yaml:"name" required:"true"`
	// Signers are the public keys of the operators who may sign the next bundle, from `penstock fleet keygen operator`.
	Signers []string `yaml:"signers" required:"true"`
	// Gateways are the gateways of the site.
	Gateways []SiteGateway `yaml:"gateways" required:"true"`

	Pos Position `yaml:"-"`
}

// SiteGateway is a gateway of a site.
type SiteGateway struct {
	// Name of the gateway.
	Name string `yaml:"name" required:"true"`
	// Key is the gateway's public key, age1..., from `penstock fleet keygen gateway`.
	Key string `yaml:"key" required:"true"`

	Pos Position `yaml:"-"`
}
