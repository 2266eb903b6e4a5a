package ondemand

import (
	"encoding/binary"
	"net"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// SSID returns the name of the Wi-Fi network that an interface is connected to, or "" if there is none or it is not known.
func SSID(name string) string {
	link, err := net.InterfaceByName(name)
	if err != nil {
		return ""
	}
	family, err := netlink.GenlFamilyGet("nl80211")
	if err != nil {
		return ""
	}
	req := nl.NewNetlinkRequest(int(family.ID), 0)
	req.AddData(&nl.Genlmsg{Command: unix.NL80211_CMD_GET_INTERFACE, Version: 1})
	req.AddData(nl.NewRtAttr(unix.NL80211_ATTR_IFINDEX, binary.NativeEndian.AppendUint32(nil, uint32(link.Index))))
	messages, err := req.Execute(unix.NETLINK_GENERIC, 0)
	if err != nil {
		return ""
	}
	for _, m := range messages {
		if ssid := ssidOf(m); ssid != "" {
			return ssid
		}
	}
	return ""
}

// ssidOf returns the name in nl80211's description of an interface.
func ssidOf(message []byte) string {
	if len(message) < nl.SizeofGenlmsg {
		return ""
	}
	attrs, err := nl.ParseRouteAttr(message[nl.SizeofGenlmsg:])
	if err != nil {
		return ""
	}
	for _, a := range attrs {
		if a.Attr.Type == unix.NL80211_ATTR_SSID {
			return string(a.Value)
		}
	}
	return ""
}
