package main

import (
	"context"
	"encoding/json"
	"net/netip"
	"os"
	"path/filepath"
)

// singBoxes are the paths through each of sing-box's stacks, if the directory has a sing-box.
func singBoxes(binaries string) (list []path) {
	if _, err := os.Stat(filepath.Join(binaries, "sing-box")); err != nil {
		return nil
	}
	for _, stack := range []string{"gvisor", "system", "mixed"} {
		list = append(list, path{name: "sing-box-" + stack, title: "sing-box on the laptop, stack " + stack + ", the same server as direct", baseline: "bare",
			brief: true, server: publicServer, open: func(ctx context.Context, w *world) error { return openSingBox(ctx, w, stack) }})
	}
	return list
}

// openSingBox runs sing-box on the laptop until the way to the server is through it. It has what it needs and nothing else:
// no logs, no sniffing, no DNS. What its MTU is, is its own default.
func openSingBox(ctx context.Context, w *world, stack string) error {
	const inner = "172.19.0.1/30"
	type object = map[string]any
	conf, err := json.Marshal(object{
		"log": object{"disabled": true},
		"inbounds": []object{{"type": "tun", "tag": "in", "interface_name": "sb0", "address": []string{inner},
			"auto_route": true, "stack": stack}},
		"outbounds": []object{{"type": "direct", "tag": "out"}},
		"route":     object{"auto_detect_interface": true, "final": "out"},
	})
	if err != nil {
		return err
	}
	if err := w.write("sing-box.json", string(conf)); err != nil {
		return err
	}
	p, err := w.start(ctx, w.Laptop, "sing-box", "run", "-c", filepath.Join(w.dir, "sing-box.json"), "-D", w.dir)
	if err != nil {
		return err
	}
	return w.taken(ctx, p, netip.MustParsePrefix(inner))
}
