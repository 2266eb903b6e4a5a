package control

import (
	"net/netip"
	"time"
)

// APIVersion stands in every answer. A client that finds another one says so instead of guessing.
const APIVersion = "penstock/v1"

// Status is what is true now.
type Status struct {
	APIVersion string `json:"apiVersion"`
	// State of the process: down, connecting, connected, reconnecting, offline, blocked, waiting or quiesced.
	State string `json:"state"`
	// Degraded says that it is connected but slow, failing or flapping.
	Degraded bool `json:"degraded,omitempty"`
	// Verdict is one line for a person: "connected via corp, received 0.4 s ago, filter on".
	Verdict    string            `json:"verdict"`
	Reason     string            `json:"reason,omitempty"` // of the last change of state
	Since      time.Time         `json:"since,omitzero"`   // of the state
	Started    time.Time         `json:"started"`
	Version    string            `json:"version"`
	Config     string            `json:"config"` // path of the configuration file
	Listen     []string          `json:"listen"` // what packets come from: "tun pen0", "wireguard :51820"
	Transports []TransportStatus `json:"transports"`
	Flows      FlowCounts        `json:"flows"`
	Peers      *PeerCounts       `json:"peers,omitempty"` // nil where penstock is no gateway
	// Health is what the last dials of the health targets found.
	Health []HealthTarget `json:"health,omitempty"`
	// PausedUntil is the end of a pause of the filter for everyone.
	PausedUntil time.Time `json:"pausedUntil,omitzero"`
	// PolicyGeneration grows with every reload that changed the rules.
	PolicyGeneration uint64 `json:"policyGeneration"`
	// ReloadError is why the last reload was refused; empty if it was not.
	ReloadError string `json:"reloadError,omitempty"`
	// Restart names the sections of the configuration whose changes wait for a restart.
	Restart []string `json:"restart,omitempty"`
	// HistoryStopped is the file of a history that cannot be kept at present, and why; empty if it is kept, and without history.
	HistoryStopped string `json:"historyStopped,omitempty"`
	// Direct says where direct flows leave a gateway that could have the kernel forward them: "direct by the kernel", or "direct by
	// sockets: " and why.
	Direct string `json:"direct,omitempty"`
	// OtherVPNs lead networks of their own into their interfaces. Flows there need a rule with do: direct.
	// Warnings are what should be looked at though nothing depends on it: one sentence each.
	Warnings  []string   `json:"warnings,omitempty"`
	OtherVPNs []OtherVPN `json:"otherVPNs,omitempty"`
	// Fleet is how the fleet looks from this gateway; nil for one that is alone.
	Fleet *Fleet `json:"fleet,omitempty"`
}

// Fleet is a site with several gateways, as one of them sees it.
type Fleet struct {
	Site    string `json:"site"`
	Gateway string `json:"gateway"` // this one
	// Connected says whether the store of the fleet can be used.
	Connected  bool           `json:"connected"`
	Generation uint64         `json:"generation"`        // of the bundle in force here
	Gateways   []FleetGateway `json:"gateways"`          // all of the bundle's
	Trouble    string         `json:"trouble,omitempty"` // of this gateway, such as another one with its name
}

// FleetGateway is a gateway of a site.
type FleetGateway struct {
	Name string `json:"name"`
	// State is serving, draining, unfit, leaving, or silent for one that is not heard of.
	State      string    `json:"state"`
	Why        string    `json:"why,omitempty"` // it is unfit
	Region     string    `json:"region,omitempty"`
	Generation uint64    `json:"generation"` // of the bundle in force there; 0: unknown
	Refused    uint64    `json:"refused,omitempty"`
	Fault      string    `json:"fault,omitempty"` // why that generation was not put in force
	Peers      int       `json:"peers"`           // with a session
	Version    string    `json:"version,omitempty"`
	Heard      time.Time `json:"heard,omitzero"` // in the store; zero: never
}

// OtherVPN is another program that leads networks into an interface of its own, by a routing table of its own.
type OtherVPN struct {
	Interface string   `json:"interface"`
	Table     int      `json:"table"`
	Networks  []string `json:"networks"`
}

// TransportStatus is one transport or failover group.
type TransportStatus struct {
	Name       string    `json:"name"`
	Kind       string    `json:"kind"` // wireguard, openvpn or failover
	State      string    `json:"state"`
	Degraded   bool      `json:"degraded,omitempty"`
	Reason     string    `json:"reason,omitempty"`
	Error      string    `json:"error,omitempty"` // the last failure in full
	Since      time.Time `json:"since,omitzero"`
	LastRx     time.Time `json:"lastRx,omitzero"` // zero: never
	RxBytes    uint64    `json:"rxBytes"`
	TxBytes    uint64    `json:"txBytes"`
	Endpoint   string    `json:"endpoint,omitempty"`
	Others     int       `json:"otherEndpoints,omitempty"` // how many more are known
	Reconnects uint64    `json:"reconnects"`
	Warnings   []string  `json:"warnings,omitempty"` // what of its file is unsafe or passed over
	SignIn     string    `json:"signIn,omitempty"`   // what its server wants from its user: a page to open, a question, or BeginAgain
	SignInID   uint64    `json:"signInID,omitempty"` // of that; 0 with BeginAgain
	SignInWhy  string    `json:"signInWhy,omitempty"`
	Active     string    `json:"active,omitempty"` // of a group: the member that carries new flows
}

// BeginAgain is what TransportStatus.SignIn says where a server would ask its user if there were a session. There is none, because
// nobody has answered.
const BeginAgain = "begin again"

// FlowCounts are numbers of flows since start, but Active.
type FlowCounts struct {
	Active    int    `json:"active"`
	Forwarded uint64 `json:"forwarded"`
	Denied    uint64 `json:"denied"`
}

// HealthTarget is what must be reached for penstock to be ready.
type HealthTarget struct {
	Target  string    `json:"target"`
	Reached bool      `json:"reached"`
	Since   time.Time `json:"since"` // of Reached
	Error   string    `json:"error,omitempty"`
}

// PeerCounts are numbers of a gateway's peers. Each peer is in one of them.
type PeerCounts struct {
	Active   int `json:"active"` // with a handshake within 3 min
	Idle     int `json:"idle"`
	Disabled int `json:"disabled"`
	Expired  int `json:"expired"`
	// OverQuota is how many of them have used up their quotas.
	OverQuota int `json:"overQuota"`
	// Bad are the files of peers that have faults.
	Bad []BadPeers `json:"bad,omitempty"`
}

// BadPeers is a file of peers that has faults.
type BadPeers struct {
	File  string `json:"file"`
	Kept  bool   `json:"kept"` // an earlier version is in force; else its peers are left out
	Error string `json:"error"`
}

// Flow is one flow, live or finished. The names of its fields are those of the flow log.
type Flow struct {
	ID         string    `json:"flow_id"`
	Proto      string    `json:"proto"` // tcp, udp, icmp, or dns for a question that was refused
	Src        string    `json:"src"`
	Dst        string    `json:"dst"`
	Peer       string    `json:"peer,omitempty"`
	Host       string    `json:"host,omitempty"`
	HostSource string    `json:"host_source,omitempty"` // dns, sni, http or quic
	Names      []Name    `json:"names,omitempty"`       // all of them; Host is the one that it was judged by
	Verdict    string    `json:"verdict"`               // block, drop, direct, dns or via
	Rule       string    `json:"rule"`
	Category   string    `json:"category,omitempty"`
	Via        string    `json:"via,omitempty"`
	Datapath   string    `json:"datapath,omitempty"` // how a flow is carried: terminated, forwarded, or forwarded and judged in line
	TxBytes    uint64    `json:"txBytes"`            // from the client
	RxBytes    uint64    `json:"rxBytes"`
	TxPkts     uint64    `json:"txPkts,omitempty"` // where packets are counted, which is nowhere yet: 0 is not none
	RxPkts     uint64    `json:"rxPkts,omitempty"`
	Start      time.Time `json:"start"`
	End        time.Time `json:"end,omitzero"`     // zero while the flow lives
	Reason     string    `json:"reason,omitempty"` // why it ended or was not carried
	Generation uint64    `json:"policy_generation"`
	Sender
}

// Flows is an answer with flows, oldest first.
type Flows struct {
	APIVersion string `json:"apiVersion"`
	Flows      []Flow `json:"flows"`
}

// FlowQuery selects flows. The zero FlowQuery selects all live ones.
type FlowQuery struct {
	Denied bool   `json:"denied,omitempty"` // those that were blocked, refused DNS questions too, as far back as the daemon remembers
	Recent bool   `json:"recent,omitempty"` // finished ones too, as far back as the daemon remembers
	Peer   string `json:"peer,omitempty"`
	// Since leaves out those that ended before it.
	Since time.Time `json:"since,omitzero"`
	Text  string    `json:"text,omitempty"` // part of the client, program, destination, a name, verdict, rule or category, in any case
	// Limit is how many flows the answer has at most: the newest, or with Largest those that carried most bytes. 0 is no limit.
	Limit   int  `json:"limit,omitempty"`
	Largest bool `json:"largest,omitempty"`
}

// ExplainQuery asks what would be done with a flow, or why something was done with a past one.
type ExplainQuery struct {
	Target   string    `json:"target,omitempty"` // URL, host, host:port or address
	From     string    `json:"from,omitempty"`   // peer or client address; empty is this machine
	Protocol string    `json:"protocol,omitempty"`
	SNI      string    `json:"sni,omitempty"` // the name that the flow itself would show
	At       time.Time `json:"at,omitzero"`   // zero is now
	Flow     string    `json:"flow,omitempty"`
	// The program on this machine that sends it; empty: unknown. A unit or container with user/ in front is a user's own.
	Process   string `json:"process,omitempty"`
	Unit      string `json:"unit,omitempty"`
	Container string `json:"container,omitempty"`
}

// Explanation is a verdict with everything that led to it.
type Explanation struct {
	APIVersion string   `json:"apiVersion"`
	Target     string   `json:"target"`
	Verdict    string   `json:"verdict"` // block, drop, direct, dns or via
	Via        string   `json:"via,omitempty"`
	Rule       string   `json:"rule"`
	Position   string   `json:"position,omitempty"` // file:line of the rule
	Category   string   `json:"category,omitempty"`
	Because    string   `json:"because,omitempty"` // one sentence
	Protocol   string   `json:"protocol,omitempty"`
	Peer       string   `json:"peer,omitempty"`
	Groups     []string `json:"groups,omitempty"`
	Sender
	Names      []Name    `json:"names,omitempty"`
	Addresses  []string  `json:"addresses,omitempty"`
	Hits       []ListHit `json:"hits,omitempty"`
	Resolver   string    `json:"resolver,omitempty"`  // which upstream answers for the name, and how
	Transport  string    `json:"transport,omitempty"` // state of the transport that would carry it
	Datapath   string    `json:"datapath,omitempty"`  // how it would be carried, and why
	Shadowed   []string  `json:"shadowed,omitempty"`  // later rules that match as well
	Notes      []string  `json:"notes,omitempty"`     // what would change the verdict
	Changes    []Change  `json:"changes,omitempty"`   // calls that would
	Generation uint64    `json:"policyGeneration"`    // of the policy that was asked
	// Then is what was said of a past flow when it was judged. Its verdict is the one that it had.
	Then *Explanation `json:"then,omitempty"`
}

// Change is a call that would change a verdict.
type Change struct {
	Text   string `json:"text"`   // what the verdict would be then
	Call   string `json:"call"`   // allow, block, or remove for decisions/remove
	Target string `json:"target"` // of the call; of remove, the ID
	Peer   string `json:"peer,omitempty"`
}

// Name is a host name of a flow and where it was learnt.
type Name struct {
	Host   string `json:"host"`
	Source string `json:"source"`
}

// ListHit is an entry of a category's list that matches.
type ListHit struct {
	Category string `json:"category"`
	List     string `json:"list"`
	Line     int    `json:"line,omitempty"`
	Entry    string `json:"entry"`
	Allow    bool   `json:"allow,omitempty"` // an exception
}

// RuleStatus is one rule with its use.
type RuleStatus struct {
	Name       string    `json:"name"`
	Position   string    `json:"position"`
	Match      string    `json:"match,omitempty"` // as text
	Do         string    `json:"do"`
	Hits       uint64    `json:"hits"`
	LastHit    time.Time `json:"lastHit,omitzero"`
	ShadowedBy string    `json:"shadowedBy,omitempty"`
}

// Rules is the list of rules in order.
type Rules struct {
	APIVersion string       `json:"apiVersion"`
	Generation uint64       `json:"policyGeneration"`
	Rules      []RuleStatus `json:"rules"`
	Tests      []RuleTest   `json:"tests"`
}

// RuleTest is one of the configuration's own tests, judged now: lists and decisions may have changed since the configuration was
// checked.
type RuleTest struct {
	Position string `json:"position"`
	From     string `json:"from,omitempty"` // peer; empty: this machine
	To       string `json:"to"`
	Expect   string `json:"expect"` // in the words of Do
	Got      string `json:"got"`
	Rule     string `json:"rule"`            // that decided
	Error    string `json:"error,omitempty"` // why it does not hold; empty: it holds
}

// ReloadQuery says how to reload.
type ReloadQuery struct {
	DryRun     bool `json:"dryRun,omitempty"`     // check and count, change nothing
	KillDenied bool `json:"killDenied,omitempty"` // end live flows that the new rules block
	PeersOnly  bool `json:"peersOnly,omitempty"`  // read only the files of peers, and keep everything else as it is
}

// Reloaded is what a reload did, or would do.
type Reloaded struct {
	APIVersion string   `json:"apiVersion"`
	Generation uint64   `json:"policyGeneration"`
	Changed    []string `json:"changed,omitempty"` // sections that changed
	Restart    []string `json:"restart,omitempty"` // changes since the start that need a restart and were not applied
	Blocked    int      `json:"blocked"`           // live flows that the new rules block
	Rerouted   int      `json:"rerouted"`          // live flows that the new rules send elsewhere
	Killed     int      `json:"killed"`
	Warnings   []string `json:"warnings,omitempty"` // probable mistakes, the same as check prints
}

// DrainOrder begins or ends draining.
type DrainOrder struct {
	Off bool `json:"off,omitempty"`
}

// Steer is an order to one transport, or to all.
type Steer struct {
	Name string        `json:"name,omitempty"` // empty: all
	For  time.Duration `json:"for,omitempty"`  // nanoseconds; 0: until the next order
}

// SignIn is what somebody must do, or has done, so that a transport's server lets this machine in: a page of a gateway, or a question
// of an OpenVPN server.
type SignIn struct {
	Transport string    `json:"transport"`
	ID        uint64    `json:"id,omitempty"`    // of what an OpenVPN server asks; 0: a gateway, or see Again
	Again     bool      `json:"again,omitempty"` // an OpenVPN server asks once "reconnect" begins a new session
	Why       string    `json:"why,omitempty"`   // why it is asked, or asked again
	URL       string    `json:"url,omitempty"`
	Needed    bool      `json:"needed"`         // somebody must sign in
	User      string    `json:"user,omitempty"` // who has, or who is asked
	Until     time.Time `json:"until,omitzero"`
	Question  string    `json:"question,omitempty"` // a prompt to answer, with "answer"
	Echo      bool      `json:"echo,omitempty"`     // the answer may be shown while it is typed
	NeedUser  bool      `json:"needUser,omitempty"` // the user name is asked for, too
}

// AnswerQuery answers the question of a transport's server.
type AnswerQuery struct {
	Transport string `json:"transport"`
	ID        uint64 `json:"id,omitempty"` // of the question; 0: whatever is asked
	User      string `json:"user,omitempty"`
	Answer    string `json:"answer"`
}

// SignIns is the pages for signing in behind the transports.
type SignIns struct {
	APIVersion string   `json:"apiVersion"`
	SignIns    []SignIn `json:"signIns"`
}

// DNSQuery is a question to the daemon's DNS server.
type DNSQuery struct {
	Name string `json:"name"`
	Type string `json:"type,omitempty"` // default A
	From string `json:"from,omitempty"` // peer; empty is this machine
}

// DNSAnswer is what a client would be told, and why.
type DNSAnswer struct {
	APIVersion string    `json:"apiVersion"`
	Name       string    `json:"name"`
	Type       string    `json:"type"`
	Rcode      string    `json:"rcode"`            // NOERROR, NXDOMAIN, ...
	Answers    []string  `json:"answers"`          // records in presentation format
	Reason     string    `json:"reason,omitempty"` // why, as the client sees it, or why it does not see the name
	Rule       string    `json:"rule,omitempty"`
	Category   string    `json:"category,omitempty"`
	Decided    string    `json:"decided,omitempty"` // the name that decided, if it is one behind Name
	Hits       []ListHit `json:"hits,omitempty"`    // of that name
	Source     string    `json:"source,omitempty"`  // of a name that penstock knows by itself: its record, or the peer
	Upstream   string    `json:"upstream,omitempty"`
	Cache      string    `json:"cache,omitempty"` // hit, miss or stale
	Cached     bool      `json:"cached,omitempty"`
	Took       float64   `json:"took"` // seconds
}

// ListStatus is one list of a category.
type ListStatus struct {
	Category string    `json:"category"`
	List     string    `json:"list"` // file, URL or "built in"
	Entries  int       `json:"entries"`
	Updated  time.Time `json:"updated,omitzero"`
	Next     time.Time `json:"next,omitzero"` // when a newer version is looked for; zero: never by itself
	Error    string    `json:"error,omitempty"`
}

// Lists is the lists of all categories in use.
type Lists struct {
	APIVersion string       `json:"apiVersion"`
	Lists      []ListStatus `json:"lists"`
}

// ListHits is which lists have a name.
type ListHits struct {
	APIVersion string    `json:"apiVersion"`
	Name       string    `json:"name"`
	Hits       []ListHit `json:"hits"`
}

// AllowQuery lets something through, for a while or always.
type AllowQuery struct {
	Target string        `json:"target"`        // a host name, category:NAME, or filter for a pause of at most 60 min
	For    time.Duration `json:"for,omitempty"` // nanoseconds; or else Always
	Peer   string        `json:"peer,omitempty"`
	Always bool          `json:"always,omitempty"`
	DryRun bool          `json:"dryRun,omitempty"` // only say what would be written
}

// Allowed is a decision that lets something through.
type Allowed struct {
	APIVersion string    `json:"apiVersion"`
	ID         string    `json:"id"`
	Target     string    `json:"target"`
	Peer       string    `json:"peer,omitempty"`
	Until      time.Time `json:"until,omitzero"`    // zero: always
	File       string    `json:"file,omitempty"`    // that the decision is in, or would be; empty: it does not survive a restart
	Diff       string    `json:"diff,omitempty"`    // of that file, unified
	Warning    string    `json:"warning,omitempty"` // why a decision that could survive a restart does not
}

// BlockQuery blocks something, for a while or always.
type BlockQuery struct {
	Target string        `json:"target"`        // a host name, with all below it, or category:NAME
	For    time.Duration `json:"for,omitempty"` // nanoseconds; or else Always
	Peer   string        `json:"peer,omitempty"`
	Always bool          `json:"always,omitempty"`
	DryRun bool          `json:"dryRun,omitempty"` // only say what would be written
}

// Blocked is a decision that blocks something. The fields are those of Allowed.
type Blocked struct {
	APIVersion string    `json:"apiVersion"`
	ID         string    `json:"id"`
	Target     string    `json:"target"`
	Peer       string    `json:"peer,omitempty"`
	Until      time.Time `json:"until,omitzero"`
	File       string    `json:"file,omitempty"`
	Diff       string    `json:"diff,omitempty"`
	Warning    string    `json:"warning,omitempty"`
	Ended      int       `json:"ended"` // live flows that were reset
}

// Decision is what somebody has decided about a name, a category or the filter.
type Decision struct {
	ID     string    `json:"id"`
	Do     string    `json:"do"`     // allow or block
	Target string    `json:"target"` // a host name, category:NAME, or filter for a pause
	Peer   string    `json:"peer,omitempty"`
	Until  time.Time `json:"until,omitzero"` // zero: always
	Made   time.Time `json:"made,omitzero"`
	By     string    `json:"by,omitempty"`   // uid 1000, or console
	Kept   bool      `json:"kept"`           // it survives a restart
	Note   string    `json:"note,omitempty"` // why it does nothing now
}

// Decisions is what has been decided.
type Decisions struct {
	APIVersion string     `json:"apiVersion"`
	File       string     `json:"file,omitempty"`  // for those that are kept; empty: there is none
	Fault      string     `json:"fault,omitempty"` // of the file: its blocks are as they were, and nothing that it allows is allowed
	Decisions  []Decision `json:"decisions"`
}

// DecisionRemoval takes a decision back.
type DecisionRemoval struct {
	ID     string `json:"id"` // or its target, if there is one decision about it
	DryRun bool   `json:"dryRun,omitempty"`
}

// DecisionRemoved is what taking a decision back did, or would do.
type DecisionRemoved struct {
	APIVersion string `json:"apiVersion"`
	ID         string `json:"id"`
	File       string `json:"file,omitempty"`
	Diff       string `json:"diff,omitempty"`
	Ended      int    `json:"ended"` // live flows that were reset
}

// PeerStatus is one configured peer of the gateway.
type PeerStatus struct {
	Name          string    `json:"name"`
	Addresses     []string  `json:"addresses"`
	Groups        []string  `json:"groups,omitempty"`
	State         string    `json:"state"` // active (a handshake within 3 min), idle, disabled or expired; empty where nothing runs
	PublicKey     string    `json:"publicKey"`
	Position      string    `json:"position"`           // file:line of its entry
	Expires       time.Time `json:"expires,omitzero"`   // zero: never
	Endpoint      string    `json:"endpoint,omitempty"` // where it was last heard from
	LastHandshake time.Time `json:"lastHandshake,omitzero"`
	RxBytes       uint64    `json:"rxBytes"` // from the peer
	TxBytes       uint64    `json:"txBytes"`
	Disabled      bool      `json:"disabled,omitempty"`
	User          string    `json:"user,omitempty"` // who has signed in with it
	SignedIn      time.Time `json:"signedIn,omitzero"`
	SignedInUntil time.Time `json:"signedInUntil,omitzero"`

	Rate         *PeerRate  `json:"rate,omitempty"`  // nil: its bandwidth is not limited
	Quota        *PeerQuota `json:"quota,omitempty"` // nil: it has none
	DroppedBytes uint64     `json:"droppedBytes"`    // above its rate
}

// PeerRate is a limit of bandwidth, in bits per second of IP packets. 0 is no limit.
type PeerRate struct {
	Up   int64 `json:"up"` // from the peer
	Down int64 `json:"down"`
}

// PeerQuota is a limit of what a peer may use in a month: bytes of IP packets, both ways.
type PeerQuota struct {
	LimitBytes uint64 `json:"limitBytes"`
	UsedBytes  uint64 `json:"usedBytes"`
	// Over says what happens to the peer when the quota is used up: block, or the rate that is left, such as 1Mbit.
	Over  string    `json:"over"`
	Spent bool      `json:"spent"`         // the quota is used up, and Over happens
	Ends  time.Time `json:"ends,omitzero"` // of the month; zero where nothing runs
}

// PeerAccess says whether a peer may connect, and until when.
type PeerAccess struct {
	Name     string     `json:"name"`
	Disabled bool       `json:"disabled"`
	Expires  *time.Time `json:"expires,omitempty"` // nil: as it was; the zero time: never
}

// Peers is the peers of the gateway.
type Peers struct {
	APIVersion string       `json:"apiVersion"`
	Peers      []PeerStatus `json:"peers"`
}

// InviteQuery invites somebody to become a peer of the gateway.
type InviteQuery struct {
	Name       string         `json:"name"` // of the peer
	Groups     []string       `json:"groups,omitempty"`
	Expires    time.Time      `json:"expires,omitzero"`     // when the peer's access ends; zero: never
	Endpoint   string         `json:"endpoint,omitempty"`   // where the peer dials; empty: the configuration's
	AllowedIPs []netip.Prefix `json:"allowedIPs,omitempty"` // what the peer sends through the tunnel; nil: all
	For        time.Duration  `json:"for"`                  // nanoseconds for which the invitation is open
}

// Invited is an invitation that has been made.
type Invited struct {
	APIVersion string    `json:"apiVersion"`
	Name       string    `json:"name"`
	Link       string    `json:"link"` // a secret: whoever opens it first is the peer
	Until      time.Time `json:"until"`
	Pinned     bool      `json:"pinned"` // the gateway's own certificate is in the link, and a browser warns of it
}

// Invitation is what is known of an invitation.
type Invitation struct {
	Name    string    `json:"name"`
	Groups  []string  `json:"groups,omitempty"`
	State   string    `json:"state"` // open, used, expired or revoked
	Made    time.Time `json:"made"`
	Until   time.Time `json:"until"`
	Ended   time.Time `json:"ended,omitzero"`   // when it was used or revoked
	Expires time.Time `json:"expires,omitzero"` // when the peer's access ends; zero: never
}

// Invitations is the invitations to a gateway.
type Invitations struct {
	APIVersion  string       `json:"apiVersion"`
	Invitations []Invitation `json:"invitations"`
}

// Done answers an order that has nothing to report.
type Done struct {
	APIVersion string `json:"apiVersion"`
	Message    string `json:"message,omitempty"`
}
