package bootentry

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"path"
	"regexp"
	"strconv"
	"strings"
)

// grub runs scripts of GRUB, as far as they decide what is booted. Nobody is at the console, and nothing is written:
// save_env does not change what this start boots, and next_entry, which counts once, is refused.
type grub struct {
	*disk
	vars      map[string]string
	exported  map[string]bool
	commands  map[string]func(g *grub, args []string) error
	functions map[string][]statement
	menu      *menu
	args      []string // of the function that runs
	status    int      // of the last command; 0 is success
	depth     int

	kernel  *File // what a boot would start
	initrds []File
	command string
}

type menu struct {
	entries []menuEntry
	// unordered says that in which order they are is not known.
	unordered bool
}

type menuEntry struct {
	title, id    string
	block        []statement
	submenu      bool
	unrestricted bool
	spec         *spec // an entry of blscfg in place of a block
}

const (
	maxCommands = 100_000
	maxArgs     = 4096 // words of one command
	grubenvSize = 1024 // what GRUB takes of an environment block at least
)

// features are variables by which scripts find out what this GRUB can.
const features = "feature_chainloader_bpb feature_ntldr feature_platform_search_hint feature_default_font_path " +
	"feature_all_video_module feature_menuentry_id feature_menuentry_options feature_200_final " +
	"feature_nativedisk_cmd feature_timeout_style"

// grubIdle are commands that do not change what is booted: of screens, keyboards and modules.
var grubIdle = words("echo insmod rmmod terminal_output terminal_input terminal_info serial loadfont background_image " +
	"background_color color videoinfo play clear gettext save_env sleep true fwsetup keymap password password_pbkdf2")

// errBooted ends a script: what is booted is known.
var errBooted = errors.New("booted")

// readGRUB runs grub.cfg.
func readGRUB(d *disk, from File) (Entry, error) {
	device := "volume" + strconv.Itoa(from.Volume)
	g := &grub{disk: d, commands: commands(), functions: map[string][]statement{}, menu: &menu{},
		vars: map[string]string{"root": device, "prefix": "(" + device + ")/" + path.Dir(from.Path),
			"grub_cpu": "i386", "grub_platform": "pc"},
		exported: words("root prefix grub_cpu grub_platform " + features)}
	if d.firmware == UEFI {
		g.vars["grub_cpu"], g.vars["grub_platform"] = "x86_64", "efi"
		g.vars["cmdpath"] = g.vars["prefix"]
	}
	for name := range words(features) {
		g.vars[name] = "y"
	}
	if err := g.configfile(from); !errors.Is(err, errBooted) {
		return Entry{}, err
	}
	return Entry{Kernel: *g.kernel, Initrds: g.initrds, Args: g.command}, nil
}

// configfile runs a configuration and then what its menu has by default. It returns errBooted, or an error.
func (g *grub) configfile(from File) error {
	text, err := g.config(from)
	if err != nil {
		return err
	}
	script, err := g.parse(string(text))
	if err != nil {
		return err
	}
	g.vars["config_file"] = g.device(from)
	g.vars["config_directory"] = path.Dir(g.device(from))
	g.exported["config_file"], g.exported["config_directory"] = true, true
	g.menu = &menu{}
	if err := g.run(script); err != nil {
		return err
	}
	return g.choose(g.vars["default"])
}

// device is a file as GRUB names it here.
func (g *grub) device(f File) string { return fmt.Sprintf("(volume%d)/%s", f.Volume, f.Path) }

// choose boots the entry of the menu that a text names: by number, title or id, and with > those of submenus.
func (g *grub) choose(text string) error {
	first, rest, nested := strings.Cut(text, ">")
	if strings.HasPrefix(rest, ">") {
		return fmt.Errorf("the default entry %.80q has a > in its title, which is not understood", text)
	}
	if g.vars["next_entry"] != "" || g.vars["prev_saved_entry"] != "" {
		return errors.New("its environment names an entry for the next start alone")
	}
	e, err := g.menu.find(first)
	switch {
	case err != nil:
		return err
	case g.vars["superusers"] != "" && !e.unrestricted:
		return fmt.Errorf("the default entry %.80q asks for a password", e.title)
	case e.submenu && (!nested || rest == ""):
		return fmt.Errorf("the default entry %.80q is a submenu", e.title)
	case nested && !e.submenu:
		return fmt.Errorf("the default entry %.80q is no submenu", e.title)
	case e.submenu:
		if g.depth++; g.depth > maxDepth {
			return errors.New("submenus without an end")
		}
		g.context()
		g.menu = &menu{}
		if err := g.run(e.block); err != nil {
			return err
		}
		return g.choose(rest)
	}
	g.vars["chosen"] = text
	if e.spec != nil {
		err = g.bootSpec(*e.spec)
	} else {
		err = g.run(e.block)
	}
	if err != nil {
		return err
	}
	return g.boot()
}

// find is the entry that a text names; the first one by default.
func (m *menu) find(text string) (menuEntry, error) {
	if len(m.entries) == 0 {
		return menuEntry{}, errors.New("it has no menu entries")
	}
	if text == "" || number.MatchString(text) {
		n, err := strconv.Atoi(cmp.Or(text, "0"))
		switch {
		case err != nil || n >= len(m.entries):
			return menuEntry{}, fmt.Errorf("the default is entry %.20s of %d", text, len(m.entries))
		case m.unordered && len(m.entries) > 1:
			return menuEntry{}, fmt.Errorf("the default is entry %d of several in /%s, whose order is not "+
				"understood; name it (grub2-set-default)", n, entriesDir)
		}
		return m.entries[n], nil
	}
	var found []menuEntry
	isID := false // of an entry of blscfg: the GRUB that has it looks for names first
	for _, e := range m.entries {
		if e.title == text || e.id == text {
			found = append(found, e)
			isID = isID || e.spec != nil && e.id == text
		}
	}
	switch {
	case numeric.MatchString(text) && !isID:
		return menuEntry{}, fmt.Errorf("the default entry %.80q is a number for some versions of GRUB, and no plain one", text)
	case len(found) == 0:
		return menuEntry{}, fmt.Errorf("the default entry %.80q is not in the menu", text)
	case len(found) > 1 && m.unordered:
		return menuEntry{}, fmt.Errorf("the default entry %.80q is several ones, whose order is not understood", text)
	}
	return found[0], nil
}

// number is a plain one, numeric what strtoul(3) takes for one.
var (
	number  = regexp.MustCompile(`^(0|[1-9][0-9]*)$`)
	numeric = regexp.MustCompile(`^\s*[-+]?[0-9]`)
)

func (g *grub) boot() error {
	if g.kernel == nil {
		return errors.New("the default entry boots no Linux kernel")
	}
	return errBooted
}

// context forgets what is not exported, as GRUB does for another configuration and for a submenu.
func (g *grub) context() {
	maps.DeleteFunc(g.vars, func(name, _ string) bool { return !g.exported[name] })
}

// run runs statements one after the other.
func (g *grub) run(list []statement) error {
	if g.depth++; g.depth > maxDepth {
		return errors.New("calls in too many calls")
	}
	defer func() { g.depth-- }()
	for _, s := range list {
		if g.runs--; g.runs < 0 {
			return fmt.Errorf("more than %d commands", maxCommands)
		}
		if err := g.statement(s); err != nil {
			if errors.Is(err, errBooted) || strings.HasPrefix(err.Error(), "line ") {
				return err
			}
			return fmt.Errorf("line %d: %w", s.line, err)
		}
	}
	return nil
}

func (g *grub) statement(s statement) error {
	switch {
	case s.function != "":
		g.functions[s.function] = s.body
		return nil
	case s.clauses == nil:
		return g.call(s)
	}
	for _, c := range s.clauses {
		g.status = 0
		if err := g.run(c.condition); err != nil {
			return err
		}
		if g.status == 0 {
			return g.run(c.body)
		}
	}
	g.status = 0
	return nil
}

// expandAll are the words with the values of variables.
func (g *grub) expandAll(list []word) (out []string, err error) {
	for _, w := range list {
		out = append(out, g.expand(w)...)
		if g.values < 0 {
			return nil, fmt.Errorf("texts and the values of variables become more than %d MiB", maxValues>>20)
		}
		if len(out) > maxArgs {
			return nil, fmt.Errorf("a command of more than %d words", maxArgs)
		}
	}
	return out, nil
}

func (g *grub) expand(w word) (out []string) {
	var text strings.Builder
	is := false // whether there is a word yet
	for _, p := range w {
		value := p.text
		if p.variable {
			value = g.value(p.text)
		}
		if g.values -= len(value); g.values < 0 {
			return nil
		}
		if !p.variable || p.quoted {
			text.WriteString(value)
			is = true
			continue
		}
		fields := strings.Fields(value)
		for i, f := range fields {
			if (i > 0 || strings.TrimLeft(value, " \t\n") != value) && is {
				out = append(out, text.String())
				text.Reset()
			}
			text.WriteString(f)
			is = true
		}
		if len(fields) > 0 && strings.TrimRight(value, " \t\n") != value {
			out, is = append(out, text.String()), false
			text.Reset()
		}
	}
	if is {
		out = append(out, text.String())
	}
	return out
}

// value is that of a variable, or of an argument of the function that runs.
func (g *grub) value(name string) string {
	switch n, err := strconv.Atoi(name); {
	case name == "?":
		return strconv.Itoa(g.status)
	case name == "#":
		return strconv.Itoa(len(g.args))
	case name == "*" || name == "@":
		return strings.Join(g.args, " ")
	case err == nil && n > 0 && n <= len(g.args):
		return g.args[n-1]
	case err == nil:
		return ""
	}
	return g.vars[name]
}

// call runs one command.
func (g *grub) call(s statement) error {
	argv, err := g.expandAll(s.words)
	if err != nil || len(argv) == 0 {
		return err
	}
	name, args := argv[0], argv[1:]
	if name == "menuentry" || name == "submenu" {
		return g.add(name == "submenu", args, s.block)
	}
	if s.block != nil {
		return fmt.Errorf("%.40q with a block is not understood", name)
	}
	status := g.status
	g.status = 0
	if body, ok := g.functions[name]; ok {
		before := g.args
		g.args = args
		err := g.run(body)
		g.args = before
		return err
	}
	if key, value, ok := strings.Cut(name, "="); ok && key != "" {
		g.vars[key] = value
		return nil
	}
	if command, ok := g.commands[name]; ok {
		return command(g, args)
	}
	if kind, ok := strings.CutPrefix(name, "search."); ok {
		return g.search(append([]string{"--" + map[string]string{"fs_uuid": "fs-uuid", "fs_label": "label",
			"file": "file"}[kind]}, setting(args)...))
	}
	if !grubIdle[name] {
		return fmt.Errorf("command %.40q is not understood", name)
	}
	if name == "echo" {
		g.status = status
	}
	return nil
}

// setting turns the arguments of search.fs_uuid, "NAME VARIABLE", into those of search.
func setting(args []string) []string {
	if len(args) < 2 {
		return args
	}
	return []string{"--set=" + args[1], args[0]}
}

// commands are those that have to do with what is booted. They call one another, so they are no variable.
func commands() map[string]func(g *grub, args []string) error {
	nothing := func(status int) func(*grub, []string) error {
		return func(g *grub, _ []string) error { g.status = status; return nil }
	}
	return map[string]func(*grub, []string) error{
		"[": (*grub).test, "test": (*grub).test, "set": (*grub).set, "unset": (*grub).unset, "export": (*grub).export,
		"load_env": (*grub).loadEnv, "search": (*grub).search, "configfile": (*grub).follow, "source": (*grub).source,
		".": (*grub).source, "linux": (*grub).linux, "linuxefi": (*grub).linux, "linux16": (*grub).linux,
		"initrd": (*grub).initrd, "initrdefi": (*grub).initrd, "initrd16": (*grub).initrd,
		"blscfg":  (*grub).blscfg,
		"boot":    func(g *grub, _ []string) error { return g.boot() },
		"false":   nothing(1),
		"hwmatch": nothing(1), "keystatus": nothing(1), // cards and keys, which are about the screen and the menu
	}
}

// add adds an entry to the menu.
func (g *grub) add(submenu bool, args []string, block []statement) error {
	e := menuEntry{block: block, submenu: submenu}
	if block == nil {
		return errors.New("a menu entry without a block is not understood")
	}
	titled := false
	for i := 0; i < len(args); i++ {
		key, value, has := strings.Cut(args[i], "=")
		switch {
		case key == "--unrestricted":
			e.unrestricted = true
		case key == "--class" || key == "--users" || key == "--hotkey" || key == "--source" || key == "--id":
			if !has {
				if i++; i == len(args) {
					return fmt.Errorf("%s of a menu entry is missing", key)
				}
				value = args[i]
			}
			if key == "--id" {
				e.id = value
			}
			if key == "--source" {
				return errors.New("menuentry --source is not understood")
			}
		case !titled:
			e.title, titled = args[i], true
		default:
			return fmt.Errorf("menu entry %.80q has arguments, which are not understood", e.title)
		}
	}
	g.menu.entries = append(g.menu.entries, e)
	g.status = 0
	return nil
}

func (g *grub) set(args []string) error {
	for _, arg := range args {
		name, value, ok := strings.Cut(arg, "=")
		if !ok || name == "" {
			return fmt.Errorf("set %.40q is not understood", arg)
		}
		g.vars[name] = value
	}
	return nil
}

func (g *grub) unset(args []string) error {
	for _, name := range args {
		delete(g.vars, name)
	}
	return nil
}

func (g *grub) export(args []string) error {
	for _, name := range args {
		g.exported[name] = true
	}
	return nil
}

// file is the volume and the path that a name stands for, as in (hd0,1)/boot; without a device it is on root.
func (g *grub) file(name string) (File, error) {
	device := g.vars["root"]
	if rest, ok := strings.CutPrefix(name, "("); ok {
		if device, name, ok = strings.Cut(rest, ")"); !ok {
			return File{}, fmt.Errorf("%.80q is no path", name)
		}
	}
	device = strings.Trim(device, "()")
	number, ok := strings.CutPrefix(device, "volume")
	n, err := strconv.Atoi(number)
	if !ok || err != nil || n < 0 || n >= len(g.volumes) {
		return File{}, fmt.Errorf("%.80q is on %.40q, a name by the order of disks or of something that is not "+
			"understood", name, device)
	}
	if !strings.HasPrefix(name, "/") {
		return File{}, fmt.Errorf("%.80q is no path", name)
	}
	return at(n, "", name), nil
}

var hint = regexp.MustCompile(`^--hint(-[a-z]+)?(=|$)`)

// search looks for a volume by what is on it, and sets a variable to it.
func (g *grub) search(args []string) error {
	kind, variable, wanted := "", "", ""
	for i := 0; i < len(args); i++ {
		switch arg := args[i]; {
		case arg == "--no-floppy" || arg == "-n" || arg == "--efidisk-only" || arg == "--root-dev-only" || arg == "-r":
			// Volumes are of the one disk that is booted from.
		case arg == "--fs-uuid" || arg == "-u":
			kind = "uuid"
		case arg == "--file" || arg == "-f":
			kind = "file"
		case arg == "--set" || arg == "-s":
			variable = "root"
			if i+2 < len(args) && !strings.HasPrefix(args[i+1], "-") { // --set [NAME] ... what is wanted is the last
				i++
				variable = args[i]
			}
		case strings.HasPrefix(arg, "--set="):
			variable = strings.TrimPrefix(arg, "--set=")
		case hint.MatchString(arg):
			if !strings.Contains(arg, "=") {
				i++
			}
		case strings.HasPrefix(arg, "-") || wanted != "":
			return fmt.Errorf("search %.40q is not understood", arg)
		default:
			wanted = arg
		}
	}
	var found []int
	for n, v := range g.volumes {
		switch kind {
		case "uuid":
			if wanted != "" && strings.EqualFold(v.UUID, wanted) {
				found = append(found, n)
			}
		case "file":
			if len(g.unread) > 0 {
				return errors.New("search by a file, which may be where nothing can be read")
			}
			is, err := g.is(at(n, "", wanted), func(fs.FileInfo) bool { return true })
			if err != nil {
				return err
			}
			if is {
				found = append(found, n)
			}
		default:
			return errors.New("search by a label is not understood")
		}
	}
	if len(found) != 1 {
		return fmt.Errorf("%d of the file systems that can be read are %.80q, which is searched for by %s", len(found),
			wanted, kind)
	}
	if variable != "" {
		g.vars[variable] = "volume" + strconv.Itoa(found[0])
	}
	return nil
}

// loadEnv sets the variables of an environment block (grubenv).
func (g *grub) loadEnv(args []string) error {
	name := g.vars["prefix"] + "/grubenv"
	only := map[string]bool{}
	for i := 0; i < len(args); i++ {
		file, long := strings.CutPrefix(args[i], "--file=")
		switch {
		case args[i] == "--skip-sig" || args[i] == "-s":
		case long:
			name = file
		case (args[i] == "-f" || args[i] == "--file") && i+1 < len(args):
			i++
			name = args[i]
		case strings.HasPrefix(args[i], "-"):
			return fmt.Errorf("load_env %.40q is not understood", args[i])
		default:
			only[args[i]] = true
		}
	}
	f, err := g.file(name)
	if err != nil {
		return err
	}
	is, err := g.is(f, func(fs.FileInfo) bool { return true })
	if err != nil {
		return err
	}
	if !is {
		g.status = 1
		return nil
	}
	text, err := g.config(f)
	if err != nil {
		return err
	}
	lines := strings.Split(string(text), "\n")
	if len(text) < grubenvSize || lines[0] != "# GRUB Environment Block" {
		return fmt.Errorf("%s is no environment block", g.name(f))
	}
	for _, line := range lines {
		key, value, ok := strings.Cut(line, "=")
		if !ok || strings.HasPrefix(line, "#") || len(only) > 0 && !only[key] {
			continue
		}
		if strings.Contains(value, `\`) {
			return fmt.Errorf("%s: the value of %.40q has an escape, which is not understood", g.name(f), key)
		}
		g.vars[key] = value
	}
	if g.vars["next_entry"] != "" {
		return fmt.Errorf("%s names an entry for the next start alone, %.80q", g.name(f), g.vars["next_entry"])
	}
	return nil
}

// follow runs another configuration in place of this one.
func (g *grub) follow(args []string) error {
	if len(args) != 1 {
		return errors.New("configfile is not understood")
	}
	f, err := g.file(args[0])
	if err != nil {
		return err
	}
	g.context()
	if err := g.configfile(f); !errors.Is(err, errBooted) {
		return fmt.Errorf("%s: %w", g.name(f), err)
	}
	return errBooted
}

// source runs another script as a part of this one.
func (g *grub) source(args []string) error {
	if len(args) != 1 {
		return errors.New("source is not understood")
	}
	f, err := g.file(args[0])
	if err != nil {
		return err
	}
	text, err := g.config(f)
	if err != nil {
		return err
	}
	script, err := g.parse(string(text))
	if err == nil {
		err = g.run(script)
	}
	if err != nil && !errors.Is(err, errBooted) {
		return fmt.Errorf("%s: %w", g.name(f), err)
	}
	return err
}

// linux takes a kernel and its command line, which GRUB begins with the kernel's name.
func (g *grub) linux(args []string) error {
	if len(args) == 0 {
		return errors.New("linux without a kernel")
	}
	f, err := g.file(args[0])
	if err != nil {
		return err
	}
	list := []string{"BOOT_IMAGE=/" + f.Path}
	for _, arg := range args[1:] {
		list = append(list, escaped(arg))
	}
	g.kernel, g.initrds, g.command = &f, nil, strings.Join(list, " ")
	return nil
}

// escaped is an argument as GRUB writes it into a command line.
func escaped(arg string) string {
	arg = strings.NewReplacer(`\`, `\\`, `'`, `\'`, `"`, `\"`).Replace(arg)
	if strings.Contains(arg, " ") {
		return `"` + arg + `"`
	}
	return arg
}

func (g *grub) initrd(args []string) error {
	if g.kernel == nil {
		return errors.New("initrd before linux")
	}
	g.initrds = nil
	for _, arg := range args {
		if strings.HasPrefix(arg, "newc:") {
			return fmt.Errorf("initrd %.80q is not understood", arg)
		}
		f, err := g.file(arg)
		if err != nil {
			return err
		}
		g.initrds = append(g.initrds, f)
	}
	return nil
}

// test is the command [, whose last argument is ].
func (g *grub) test(args []string) error {
	if n := len(args); n > 0 && args[n-1] == "]" {
		args = args[:n-1]
	}
	if len(args) == 0 {
		g.status = 1
		return nil
	}
	yes, rest, err := g.either(args)
	if err == nil && len(rest) > 0 {
		err = fmt.Errorf("%.40q", rest[0])
	}
	if err != nil {
		return fmt.Errorf("condition %.80q is not understood: %w", strings.Join(args, " "), err)
	}
	if !yes {
		g.status = 1
	}
	return nil
}

func (g *grub) either(args []string) (bool, []string, error) {
	yes, rest, err := g.both(args)
	for err == nil && len(rest) > 0 && rest[0] == "-o" {
		var also bool
		also, rest, err = g.both(rest[1:])
		yes = yes || also
	}
	return yes, rest, err
}

func (g *grub) both(args []string) (bool, []string, error) {
	yes, rest, err := g.one(args)
	for err == nil && len(rest) > 0 && rest[0] != "-o" {
		if rest[0] == "-a" {
			rest = rest[1:]
		}
		var also bool
		also, rest, err = g.one(rest)
		yes = yes && also
	}
	return yes, rest, err
}

// kinds are the tests of files.
var kinds = map[string]func(fs.FileInfo) bool{
	"-d": func(i fs.FileInfo) bool { return i.IsDir() },
	"-e": func(fs.FileInfo) bool { return true },
	"-f": func(i fs.FileInfo) bool { return !i.IsDir() },
	"-s": func(i fs.FileInfo) bool { return i.Size() > 0 },
}

// one is one comparison, after any number of !.
func (g *grub) one(args []string) (bool, []string, error) {
	not := false
	for len(args) > 0 && args[0] == "!" {
		args, not = args[1:], !not
	}
	if len(args) == 0 {
		return false, nil, errors.New("it ends too early")
	}
	yes, rest, err := g.comparison(args)
	return yes != not, rest, err
}

func (g *grub) comparison(args []string) (yes bool, rest []string, err error) {
	if len(args) >= 3 && (args[1] == "=" || args[1] == "==" || args[1] == "!=") {
		return (args[0] == args[2]) == (args[1] != "!="), args[3:], nil
	}
	if len(args) >= 3 && strings.HasPrefix(args[1], "-") && len(args[1]) == 3 {
		a, errA := strconv.Atoi(args[0])
		b, errB := strconv.Atoi(args[2])
		compare := map[string]bool{"-eq": a == b, "-ne": a != b, "-lt": a < b, "-le": a <= b, "-gt": a > b, "-ge": a >= b}
		yes, known := compare[args[1]]
		if !known || errA != nil || errB != nil {
			return false, nil, fmt.Errorf("%.40q", args[1])
		}
		return yes, args[3:], nil
	}
	kind, isKind := kinds[args[0]]
	switch {
	case len(args) >= 2 && args[0] == "-n":
		return args[1] != "", args[2:], nil
	case len(args) >= 2 && args[0] == "-z":
		return args[1] == "", args[2:], nil
	case len(args) >= 2 && isKind:
		f, err := g.file(args[1])
		if err == nil {
			yes, err = g.is(f, kind)
		}
		return yes, args[2:], err
	case strings.HasPrefix(args[0], "-") || args[0] == "(" || args[0] == "=" || args[0] == "!=" || len(args) >= 2 &&
		args[1] != "-a" && args[1] != "-o":
		return false, nil, fmt.Errorf("%.40q", args[0])
	}
	return args[0] != "", args[1:], nil
}
