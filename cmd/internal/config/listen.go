package config

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"net/url"
	"os"
	"reflect"
	"time"
)

// Listen says where flows come from.
type Listen struct {
	// TUN is a device of the operating system: everything that this machine sends.
	TUN *TUN `yaml:"tun"`
	// WireGuard is a port to which peers connect.
	WireGuard *WireGuardListen `yaml:"wireguard"`
	// Enrol is where invited people join the gateway, by `penstock join` or with a browser. Without it nobody is invited.
	Enrol *EnrolListen `yaml:"enrol"`
	// Proxy is a TCP port for programs that speak SOCKS5 or HTTP proxy, and need no WireGuard.
	Proxy *ProxyListen `yaml:"proxy"`
}

// ProxyListen is a port on which penstock is a SOCKS5 and HTTP proxy. What it dials for a client is a flow of that client, judged
// like any other.
type ProxyListen struct {
	// Address is where to listen. Other addresses than loopback ones need peers with proxy_password. Neither protocol encrypts
	// names and passwords.
	Address netip.AddrPort `yaml:"address" default:"127.0.0.1:1080"`

	Pos Position `yaml:"-"`
}

// NeedsLogin reports whether clients of listen.proxy must log in. They need not on a laptop's loopback address if nothing of the
// configuration is about peers: then they are programs of this machine.
func NeedsLogin(c *Config) bool {
	p := c.Listen.Proxy
	return p == nil || !p.Address.Addr().IsLoopback() || c.Listen.TUN == nil || c.Listen.WireGuard != nil || c.Peers.Len() > 0 || mayHavePeers(c)
}

// mayHavePeers reports whether a file of peers can appear, or is left out.
func mayHavePeers(c *Config) bool { return len(c.globs) > 0 || c.leftOut > 0 }

// TUN is a device of the operating system.
type TUN struct {
	// Name of the device.
	Name string `yaml:"name" default:"pen0"`
	// Address lists the device's own addresses with their networks. The DNS server answers on them. Without it, penstock takes
	// other networks than the default if the host uses those, and moves when the host joins a network that has them.
	Address []netip.Prefix `yaml:"address" default:"10.77.0.1/24,fd77::1/64"`
	// MTU in bytes, IP header included; 0 means the smallest of the transports, so that what fits the TUN fits each of them.
	MTU int `yaml:"mtu"`
	// FD is an open TUN descriptor to use instead of making a device. Whoever opened it configures the device.
	FD *int `yaml:"fd"`
	// Routes is auto (penstock routes the host through the device, and undoes that when it stops) or manual (it leaves routes
	// alone).
	Routes string `yaml:"routes" default:"auto" oneof:"auto,manual"`
	// DNS is auto (penstock points the host's resolver at itself, and undoes that when it stops) or manual.
	DNS string `yaml:"dns" default:"auto" oneof:"auto,manual"`
	// Mark is set on penstock's own packets, so that they do not enter the device again.
	Mark uint32 `yaml:"mark" default:"0x1000000"`
	// MarkMask says which bits of a packet's mark are penstock's.
	MarkMask uint32 `yaml:"mark_mask" default:"0x1000000"`
	// Direct says how TCP with the verdict direct leaves this host. With kernel, on Linux, the kernel forwards the packets of what is
	// behind a router, which is faster: penstock makes a second TUN device, routes and masquerades what it has judged, and undoes that
	// when it stops. Where that does not work, with fd, with routes: manual, and with sockets, penstock opens connections of its own.
	Direct string `yaml:"direct" default:"kernel" oneof:"kernel,sockets"`
	// StateFile records every change to the host before it is made, so that it can be undone after a crash.
	StateFile string `yaml:"state_file" default:"/var/lib/penstock/host.json" path:"written"`

	Pos Position `yaml:"-"`
	// AddressGiven reports whether a file says Address. If not, it is a default that may be replaced.
	AddressGiven bool `yaml:"-"`
}

// newTUN returns a TUN with its defaults.
func newTUN() *TUN {
	var t TUN
	setDefaults(reflect.ValueOf(&t).Elem())
	return &t
}

// DefaultStateFile is the default of listen.tun.state_file.
func DefaultStateFile() string { return newTUN().StateFile }

// WireGuardListen is the gateway side of WireGuard.
type WireGuardListen struct {
	// ListenPort is the UDP port that peers connect to.
	ListenPort int `yaml:"listen_port" default:"51820"`
	// Address is the gateway's own addresses inside the tunnel, with the peers' network.
	Address []netip.Prefix `yaml:"address" required:"true"`
	// PrivateKey is the gateway's key, as `penstock genkey` prints it.
	PrivateKey Secret `yaml:"private_key" required:"true"`
	// MTU in bytes inside the tunnel, IP header included.
	MTU int `yaml:"mtu" default:"1420"`
	// Direct says how flows with the verdict direct leave this host if there is no listen.tun. With kernel, on Linux and with
	// CAP_NET_ADMIN, the kernel forwards their packets, which takes less CPU: penstock makes a TUN device, routes and masquerades what it
	// has judged, and undoes that when it stops. Where that does not work, and with sockets, penstock opens connections of its own and
	// changes nothing on the host.
	Direct string `yaml:"direct" default:"kernel" oneof:"kernel,sockets"`
	// Endpoint is what peers dial, host:port; several, separated by commas, are those of gateways with the same key and the same
	// peers. `penstock peer add` writes the first into the files that it makes, and `penstock join` all of them.
	Endpoint string `yaml:"endpoint"`
	// DNS lists the resolvers of peers, written into the same files. Default: the gateway's own addresses.
	DNS []netip.Addr `yaml:"dns"`
	// ReuseAfter is how long the address of a removed peer rests before `penstock peer add` gives it to another peer.
	ReuseAfter time.Duration `yaml:"reuse_after" default:"24h"`

	Pos Position `yaml:"-"`
	// QuotaFile keeps what peers with a quota have used. It is in state_dir.
	QuotaFile string `yaml:"-"`
}

// EnrolListen is where invited people join the gateway: `penstock peer invite NAME` makes a link that works once.
type EnrolListen struct {
	// Address is the TCP address that serves it, over HTTPS.
	Address string `yaml:"address" default:":8443"`
	// URL is how others reach that address, https://HOST or https://HOST:PORT. It begins each link.
	URL string `yaml:"url" required:"true"`
	// Certificate is a file with the certificate for the host in url, and those that it is signed with, in PEM. It is read again when it
	// is renewed. Without it the gateway makes its own, which links pin: `penstock join` trusts it, but a browser warns.
	Certificate string `yaml:"certificate" path:"file"`
	// ACME gets the certificate from the authority in acme. The gateway makes its own key and certificate as well, which serves until the
	// authority has issued one for that key, so that links work from the start.
	ACME bool `yaml:"acme"`
	// PrivateKey is the certificate's key, in PEM. In a bundle it may stand alone: then all gateways of the site make their own
	// certificates with it, and links pin it. `penstock fleet keygen enrolment` makes such a key.
	PrivateKey Secret `yaml:"private_key"`

	Pos Position `yaml:"-"`
	// Folder keeps the invitations and the key of the gateway's own certificate. It is in state_dir.
	Folder string `yaml:"-"`
}

// Host is the host in url, which a certificate has to be for.
func (e *EnrolListen) Host() string {
	u, err := url.Parse(e.URL)
	if err != nil {
		return ""
	}
	return u.Hostname()
}

// KeyPair reads certificate and private_key. They must be for the host in url.
func (e *EnrolListen) KeyPair() (tls.Certificate, error) {
	key, err := e.PrivateKey.Read()
	if err != nil {
		return tls.Certificate{}, err
	}
	f, err := os.Open(e.Certificate)
	if err != nil {
		return tls.Certificate{}, err
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, MaxFile))
	if err != nil {
		return tls.Certificate{}, err
	}
	pair, err := tls.X509KeyPair(text, []byte(key))
	if err == nil {
		err = pair.Leaf.VerifyHostname(e.Host())
	}
	return pair, err
}

// OwnKey reads private_key as the key of a certificate that the gateways of a site make for themselves.
func (e *EnrolListen) OwnKey() (*ecdsa.PrivateKey, error) {
	text, err := e.PrivateKey.Read()
	if err != nil {
		return nil, err
	}
	return ParseOwnKey([]byte(text))
}

// ParseOwnKey reads an ECDSA key in PEM, as penstock writes it for its own certificates.
func ParseOwnKey(text []byte) (*ecdsa.PrivateKey, error) {
	block, rest := pem.Decode(text)
	if block != nil && block.Type == "PRIVATE KEY" && len(bytes.TrimSpace(rest)) == 0 {
		if any, err := x509.ParsePKCS8PrivateKey(block.Bytes); err == nil {
			if key, ok := any.(*ecdsa.PrivateKey); ok {
				return key, nil
			}
		}
	}
	return nil, errors.New("this is not a key from penstock fleet keygen enrolment, an ECDSA key in PEM")
}

// CertificateFaults returns what is wrong with the certificates of listen.enrol, sign_in and acme, and the files of those. Load does not
// look at them, because others renew them: if that goes wrong, peers can still be removed.
func CertificateFaults(c *Config) (list []Fault, files []string) {
	if e := c.Listen.Enrol; e != nil && e.Certificate != "" {
		if _, err := e.KeyPair(); err != nil {
			list = append(list, c.Fault("listen.enrol.certificate", fmt.Sprintf("listen.enrol: %s: %v", e.Certificate, err), "name the files of a certificate for "+e.Host()+", or neither"))
			files = append(files, e.Certificate, e.PrivateKey.File)
		}
	}
	if a := c.ACME; a != nil {
		if _, err := a.Roots(); err != nil {
			list = append(list, c.Fault("acme.ca", fmt.Sprintf("acme.ca: %v", err), "name a file with the certificates of the authority's roots"))
			files = append(files, a.CA)
		}
	}
	if s := c.SignIn; s != nil && s.Certificate != "" {
		if _, err := s.KeyPair(); err != nil {
			list = append(list, c.Fault("sign_in.certificate", fmt.Sprintf("sign_in.certificate: %v", err), ""))
			files = append(files, s.Certificate, s.CertificateKey.File)
		}
	}
	return list, files
}
