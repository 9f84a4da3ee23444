// Package deb checks the Debian package that scripts/deb.sh makes and the systemd unit in it: what
// is where, that systemd understands it, and that the program does its work with the rights the
// unit leaves it.
package deb

import (
	"bufio"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"ingot/internal/config"
	"ingot/internal/testkit"
)

const root = "../.."

// unpacked builds the package and returns its name and a directory with its contents.
func unpacked(t *testing.T) (name, dir string) {
	t.Helper()
	temp, err := os.MkdirTemp("", "deb") // in one that a user without rights may look into
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(temp) })
	if err := os.Chmod(temp, 0o755); err != nil {
		t.Fatal(err)
	}
	build := exec.CommandContext(t.Context(), "go", "build", "-trimpath", "-ldflags=-s -w",
		"-o", temp+"/bin/", "./cmd/ingot", "./cmd/ingot-agent")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	build.Dir = root
	output(t, build)
	name = strings.TrimSpace(output(t, exec.CommandContext(t.Context(), root+"/scripts/deb.sh",
		temp+"/bin", temp+"/out")))
	dir = temp + "/root"
	output(t, exec.CommandContext(t.Context(), "dpkg-deb", "-x", name, dir))
	return name, dir
}

func output(t *testing.T, cmd *exec.Cmd) string {
	t.Helper()
	var problem strings.Builder
	cmd.Stderr = &problem
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s: %v\n%s%s", cmd, err, out, &problem)
	}
	return string(out)
}

func TestTheDebianPackage(t *testing.T) {
	t.Parallel()
	testkit.Long(t) // it builds the program
	name, dir := unpacked(t)
	t.Run("has what a host needs", func(t *testing.T) { holds(t, name, dir) })
	more := dropIn(t)
	t.Run("lets the drop-in for a service address add rights", func(t *testing.T) { adds(t, dir, more) })
	t.Run("starts with the capabilities of its unit", func(t *testing.T) {
		starts(t, dir, "", "", `msg="machines are answered"`)
	})
	t.Run("holds a service address with those of the drop-in", func(t *testing.T) {
		starts(t, dir, more, "service_address = \"10.9.9.9\"", `msg="holding the service address"`)
	})
}

// dropIn is what doc/cluster.md has added to the unit for a service address.
func dropIn(t *testing.T) string {
	t.Helper()
	text, err := os.ReadFile(root + "/doc/cluster.md")
	if err != nil {
		t.Fatal(err)
	}
	m := regexp.MustCompile(`(?m)^    # systemctl edit ingot.*\n((?:    .*\n)+)`).FindSubmatch(text)
	if m == nil {
		t.Fatal("doc/cluster.md shows no drop-in")
	}
	return regexp.MustCompile(`(?m)^    `).ReplaceAllString(string(m[1]), "")
}

// adds tests that systemd adds the rights of a drop-in to those of the unit.
func adds(t *testing.T, dir, more string) {
	here := t.TempDir()
	if err := os.Mkdir(here+"/ingot.service.d", 0o700); err != nil {
		t.Fatal(err)
	}
	unit, err := os.ReadFile(dir + "/lib/systemd/system/ingot.service")
	if err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{"ingot.service": string(unit), "ingot.service.d/more.conf": more} {
		if err := os.WriteFile(here+"/"+name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	report := output(t, exec.CommandContext(t.Context(), "systemd-analyze", "security", "--offline=true", "--no-pager",
		here+"/ingot.service"))
	for _, want := range []string{"Service may allocate packet sockets", "Service may allocate Internet sockets",
		"Service may allocate netlink sockets", "Service has network configuration privileges"} {
		if !strings.Contains(report, want) {
			t.Errorf("no %q in\n%s", want, report)
		}
	}
}

// ambient are the capabilities that units give a service.
func ambient(t *testing.T, units string) string {
	t.Helper()
	caps := "-all"
	for _, m := range regexp.MustCompile(`(?m)^AmbientCapabilities=(.*)$`).FindAllStringSubmatch(units, -1) {
		for name := range strings.FieldsSeq(m[1]) {
			caps += ",+" + strings.ToLower(strings.TrimPrefix(name, "CAP_"))
		}
	}
	if caps == "-all" {
		t.Fatal("the unit names no capabilities")
	}
	return caps
}

func holds(t *testing.T, name, dir string) {
	fields := output(t, exec.CommandContext(t.Context(), "dpkg-deb", "--show",
		"--showformat=${Package} ${Version} ${Architecture} ${Depends}", name))
	if !regexp.MustCompile(`^ingot 0\.\d{8}\.\d{6}\.[0-9a-f]+ \w+ systemd$`).MatchString(fields) {
		t.Errorf("fields %q", fields)
	}
	list := output(t, exec.CommandContext(t.Context(), "dpkg-deb", "-c", name))
	for _, want := range []string{`-rwxr-xr-x root/root .* \./usr/bin/ingot`,
		`-rwxr-xr-x root/root .* \./usr/bin/ingot-agent`,
		`-rw-r--r-- root/root .* \./lib/systemd/system/ingot.service`,
		`-rw-r----- root/root .* \./etc/ingot/ingot.toml`,
		`-rw-r--r-- root/root .* \./usr/share/doc/ingot/copyright`} {
		if !regexp.MustCompile(`(?m)^` + want + `$`).MatchString(list) {
			t.Errorf("no %s in\n%s", want, list)
		}
	}
	if _, err := config.Load(dir+"/etc/ingot/ingot.toml", nil); err != nil {
		t.Errorf("the configuration: %v", err)
	}
	output(t, exec.CommandContext(t.Context(), dir+"/usr/bin/ingot", "version"))

	control := t.TempDir()
	output(t, exec.CommandContext(t.Context(), "dpkg-deb", "-e", name, control))
	for _, script := range []string{"postinst", "prerm", "postrm"} {
		output(t, exec.CommandContext(t.Context(), "sh", "-n", filepath.Join(control, script)))
	}
	if text, err := os.ReadFile(control + "/conffiles"); err != nil ||
		string(text) != "/etc/ingot/ingot.toml\n" {
		t.Errorf("conffiles %q, %v", text, err)
	}

	unit, err := os.ReadFile(dir + "/lib/systemd/system/ingot.service")
	if err != nil {
		t.Fatal(err)
	}
	// The program is looked for; it is not installed here.
	here := filepath.Join(t.TempDir(), "ingot.service")
	text := strings.ReplaceAll(string(unit), "/usr/bin/ingot", dir+"/usr/bin/ingot")
	if err := os.WriteFile(here, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	verify := exec.CommandContext(t.Context(), "systemd-analyze", "verify", here)
	if out, err := verify.CombinedOutput(); err != nil || len(out) > 0 {
		t.Errorf("systemd-analyze verify: %v: %s", err, out)
	}
}

// starts tests that the rights of the unit and a drop-in are enough to give addresses, to advertise as a router
// and to serve TFTP, and for a line more in [boot], until the log has said something.
func starts(t *testing.T, dir, more, line, until string) {
	unit, err := os.ReadFile(dir + "/lib/systemd/system/ingot.service")
	if err != nil {
		t.Fatal(err)
	}
	caps := ambient(t, string(unit)+"\n"+more)
	const nobody = 65534
	data, err := os.MkdirTemp(dir, "var")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Chown(data, nobody, nobody); err != nil {
		t.Fatal(err)
	}
	file := data + ".toml"
	text := strings.NewReplacer("DATA", data, "LINE", line).Replace(`
[store]
path = "DATA/ingot.db"
[image]
spool = "DATA/spool"
[boot]
interface = "eth0"
cache = "DATA/boot"
LINE
[boot.dhcp]
mode = "server"
range = "10.9.9.10-10.9.9.20"
`)
	if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "unshare", "--net", "sh", "-ec", `
ip link set lo up
ip link add eth0 type veth peer name eth1
ip link set eth1 up
ip addr add 10.9.9.1/24 dev eth0
ip link set eth0 up
exec setpriv --reuid=65534 --regid=65534 --clear-groups --no-new-privs --bounding-set="$1" \
	--inh-caps="$1" --ambient-caps="$1" "$2" serve --config "$3"
`, "sh", caps, dir+"/usr/bin/ingot", file)
	said, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var log strings.Builder
	answered := false
	for lines := bufio.NewScanner(said); lines.Scan(); {
		log.WriteString(lines.Text() + "\n")
		if !answered && strings.Contains(lines.Text(), until) {
			answered = true
			if err := cmd.Process.Signal(os.Interrupt); err != nil {
				t.Error(err)
			}
		}
	}
	if err := cmd.Wait(); err != nil || !answered || strings.Contains(log.String(), "CAP_NET") {
		t.Errorf("it ended with %v; %s: %v\n%s", err, until, answered, &log)
	}
}
