package doctor

import (
	"fmt"

	"penstock/cmd/internal/config"
	"penstock/cmd/internal/control"
)

// hasTUN reports whether penstock has, or would have, a TUN; with no configuration it may.
func (f *Facts) hasTUN() bool {
	return !f.Config.Known || f.Config.Is.Listen.TUN != nil || f.byKernel()
}

// byKernel reports whether a gateway has the kernel forward for it.
func (f *Facts) byKernel() bool {
	return f.Config.Known && f.Config.Is.Listen.WireGuard != nil && f.Config.Is.Listen.WireGuard.Direct == "kernel"
}

// mayForward reports whether penstock may have the kernel forward for it.
func (f *Facts) mayForward() bool {
	return f.byKernel() || f.Config.Known && f.Config.Is.Listen.TUN != nil && f.Config.Is.Listen.TUN.Direct == "kernel"
}

// ownsHost reports whether penstock routes the host through its TUN.
func (f *Facts) ownsHost() bool {
	return f.Config.Known && f.Config.Is.Listen.TUN != nil && f.Config.Is.Listen.TUN.Routes == "auto"
}

// tun is the configured TUN, or the default one.
func (f *Facts) tun() config.TUN {
	if f.Config.Known && f.Config.Is.Listen.TUN != nil {
		return *f.Config.Is.Listen.TUN
	}
	return config.TUN{}
}

const noTUN = "not needed: this configuration has no listen.tun"

func judgeRights(f *Facts) []control.Finding {
	r := f.Rights.Is
	switch {
	case !f.Rights.Known:
		return notChecked(f.Rights.Why)
	case r.NetAdmin:
		return ok("user %d with CAP_NET_ADMIN", r.User)
	case r.User != 0:
		return notChecked(fmt.Sprintf("user %d without CAP_NET_ADMIN: nftables and packet marks were not checked, and other users' programs are not named; run this with sudo", r.User))
	case f.Config.Known && f.hasTUN():
		return fault("give the container CAP_NET_ADMIN (docker: --cap-add NET_ADMIN), or run penstock elsewhere", "root without CAP_NET_ADMIN: penstock can make no TUN and no route")
	}
	return notChecked("root without CAP_NET_ADMIN: nftables and packet marks were not checked")
}

func judgeDevice(f *Facts) []control.Finding {
	d := f.Device.Is
	switch {
	case !f.Device.Known:
		return notChecked(f.Device.Why)
	case !f.hasTUN():
		return ok(noTUN)
	case d.Missing:
		return fault("modprobe tun; in a container: --device /dev/net/tun", "there is no /dev/net/tun")
	case d.Refused && f.Rights.Is.User != 0:
		return notChecked("this user may not open /dev/net/tun")
	case d.Refused:
		return fault("in a container: --device /dev/net/tun; else: chmod 666 /dev/net/tun", "root may not open /dev/net/tun")
	case d.Error != "":
		return fault("modprobe tun", "/dev/net/tun does not open: %s", d.Error)
	}
	return ok("/dev/net/tun opens")
}

func judgeOffloads(f *Facts) []control.Finding {
	switch {
	case !f.Device.Known, f.Device.Is.Missing, f.Device.Is.Refused, f.Device.Is.Error != "":
		return notChecked(orElse(f.Device.Why, "/dev/net/tun was not opened"))
	case !f.Device.Is.Headers:
		return warning("use a kernel with IFF_VNET_HDR", "the TUN takes no large packets: it works, but slowly")
	}
	return ok("the TUN takes packets with their offloads")
}

func judgeUDP(f *Facts) []control.Finding {
	k := f.Kernel.Is
	switch {
	case !f.Kernel.Known:
		return notChecked(f.Kernel.Why)
	case k.GSO != "":
		return warning("use Linux 4.18 or later", "Linux %s sends UDP one packet at a time (UDP_SEGMENT: %s): it works, but slowly", k.Release, k.GSO)
	case k.GRO != "":
		return warning("use Linux 5.0 or later", "Linux %s receives UDP one packet at a time (UDP_GRO: %s): it works, but slowly", k.Release, k.GRO)
	}
	return ok("Linux %s sends and receives UDP in batches", k.Release)
}

func judgeNftables(f *Facts) []control.Finding {
	switch {
	case !f.Nftables.Known:
		return notChecked(f.Nftables.Why)
	case f.Nftables.Is == "":
		return ok("usable")
	case f.Config.Known && (f.Config.Is.AlwaysOn.Lockdown || f.byKernel()):
		return fault("load nf_tables: modprobe nf_tables", "not usable: %s: lockdown and direct: kernel need it", f.Nftables.Is)
	}
	return warning("load nf_tables: modprobe nf_tables", "not usable: %s: penstock does without, but lockdown would not work, and direct flows leave by sockets", f.Nftables.Is)
}

func judgeRules(f *Facts) []control.Finding {
	switch {
	case !f.Kernel.Known:
		return notChecked(f.Kernel.Why)
	case f.Kernel.Is.Rules != "" && f.hasTUN():
		return fault("use a kernel with CONFIG_IP_MULTIPLE_TABLES", "not usable: %s", f.Kernel.Is.Rules)
	case f.Kernel.Is.Rules != "":
		return ok(noTUN)
	}
	return ok("usable")
}

func judgeMarks(f *Facts) []control.Finding {
	switch {
	case !f.Kernel.Known:
		return notChecked(f.Kernel.Why)
	case f.Kernel.Is.Marks != "" && f.Rights.Known && !f.Rights.Is.NetAdmin:
		return notChecked("marks need CAP_NET_ADMIN")
	case f.Kernel.Is.Marks != "" && f.hasTUN():
		return fault("run penstock where SO_MARK works", "sockets take no mark: %s: penstock's own packets would enter its TUN", f.Kernel.Is.Marks)
	case f.Kernel.Is.Marks != "":
		return ok(noTUN)
	}
	return ok("usable")
}

// stateFlag is what names the state file to commands that need it.
func (f *Facts) stateFlag() string {
	if f.Config.Known && f.Config.Is.Listen.TUN != nil {
		return " --state " + f.Config.Is.Listen.TUN.StateFile
	}
	return ""
}

// judgeLeft looks for what a penstock that died has left on the host.
func judgeLeft(f *Facts) []control.Finding {
	l, file := f.Left.Is, f.stateFlag()
	switch {
	case f.Invalid != "", f.Running.Known && !f.Config.Known: // the file that is usual may not be the one that penstock uses
		return notChecked(f.unconfigured())
	case !f.Left.Known:
		return notChecked(f.Left.Why)
	case l.Held, f.Running.Known && f.Config.Known:
		return ok("changes in force by the penstock that runs: %d", len(l.Changes))
	case l.Lockdown:
		return warning("start penstock, or open the host: penstock lockdown off"+file, "lockdown keeps the host closed, and no penstock runs")
	case len(l.Changes) > 0:
		return fault("penstock cleanup"+file+", or start penstock, which takes them over", "a penstock that died has left changes on the host: %d: %s", len(l.Changes), some(l.Changes))
	}
	return ok("none is left behind")
}
