//! Kubernetes' programs: built by Go from published modules, kept in the user's cache.
//!
//! `tools/NAME/go.mod` pins each set of programs by its `tool` lines, and `go.sum` what they are made of.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result};

use crate::steps;

/// Programs that one Go module pins.
struct Module {
    /// Directory below `tools`.
    name: &'static str,
    /// The module whose version they have.
    path: &'static str,
    /// Program and the package that it is built from.
    programs: &'static [(&'static str, &'static str)],
    /// Variables that tell the programs their version.
    version_variables: &'static [&'static str],
}

/// What a cluster consists of.
const KUBERNETES: Module = Module {
    name: "kubernetes",
    path: "k8s.io/kubernetes",
    programs: &[
        ("etcd", "go.etcd.io/etcd/server/v3"),
        ("kube-apiserver", "k8s.io/kubernetes/cmd/kube-apiserver"),
        ("kube-controller-manager", "k8s.io/kubernetes/cmd/kube-controller-manager"),
        ("kube-scheduler", "k8s.io/kubernetes/cmd/kube-scheduler"),
        ("kubectl", "k8s.io/kubernetes/cmd/kubectl"),
    ],
    version_variables: &[
        "k8s.io/component-base/version.gitVersion",
        "k8s.io/client-go/pkg/version.gitVersion",
    ],
};
/// What else talks to one in tests.
const CLIENTS: [Module; 2] = [
    Module {
        name: "helm3",
        path: "helm.sh/helm/v3",
        programs: &[("helm3", "helm.sh/helm/v3/cmd/helm")],
        version_variables: &["helm.sh/helm/v3/internal/version.version"],
    },
    Module {
        name: "helm4",
        path: "helm.sh/helm/v4",
        programs: &[("helm4", "helm.sh/helm/v4/cmd/helm")],
        version_variables: &["helm.sh/helm/v4/internal/version.version"],
    },
];
/// What Kubernetes needs.
const OLDEST_GO: (u32, u32) = (1, 24);
/// Name of the link to the version that was built last: where the lab looks.
const CURRENT: &str = "current";

/// The programs, built.
pub(crate) struct Programs {
    directory: PathBuf,
    version: String,
}

impl Programs {
    /// Builds what is missing or out of date.
    pub(crate) fn build(root: &Path, go: &Path, clients: bool) -> Result<Self> {
        let cache = cache()?.join("kubernetes");
        let tools = root.join("tools");
        let version = pinned(&tools.join(KUBERNETES.name), KUBERNETES.path)?;
        let directory = cache.join(&version);
        fs::create_dir_all(&directory).with_context(|| format!("make {}", directory.display()))?;
        KUBERNETES.build(&tools, go, &directory)?;
        for module in CLIENTS.iter().filter(|_| clients) {
            module.build(&tools, go, &directory)?;
        }
        point_at(&cache.join(CURRENT), &version)?;
        Ok(Self { directory, version })
    }

    /// Where they are.
    pub(crate) fn directory(&self) -> &Path {
        &self.directory
    }

    /// Where they are, for an environment variable.
    pub(crate) fn path(&self) -> String {
        self.directory.display().to_string()
    }

    /// Version of Kubernetes, as in `v1.34.4`.
    pub(crate) fn version(&self) -> &str {
        &self.version
    }
}

impl Module {
    fn build(&self, tools: &Path, go: &Path, directory: &Path) -> Result<()> {
        let source = tools.join(self.name);
        // What the programs are made of, in full; a program whose stamp is another text is built again.
        let stamp =
            format!("{}{}{}", go_version(go)?, read(&source.join("go.mod"))?, read(&source.join("go.sum"))?);
        let version = pinned(&source, self.path)?;
        let variables: String =
            self.version_variables.iter().map(|variable| format!(" -X {variable}={version}")).collect();
        let go = go.to_str().context("the path of Go is no UTF-8")?;
        for (name, package) in self.programs {
            let program = directory.join(name);
            let stamp_file = directory.join(format!("{name}.stamp"));
            if program.is_file() && fs::read_to_string(&stamp_file).is_ok_and(|old| old == stamp) {
                continue;
            }
            println!("building {name} {version} from source");
            let start = Instant::now();
            let output = program.to_str().context("the path of the cache is no UTF-8")?;
            let linker = format!("-ldflags=-s -w{variables}");
            let arguments = ["build", "-trimpath", &linker, "-o", output, package];
            let env = [("CGO_ENABLED", "0"), ("GOFLAGS", "-mod=readonly"), ("GOWORK", "off")];
            steps::run(&source, go, &arguments, &env)?;
            fs::write(&stamp_file, &stamp).with_context(|| format!("write {}", stamp_file.display()))?;
            println!("built {name} in {} s", start.elapsed().as_secs());
        }
        Ok(())
    }
}

/// The Go tool, if there is one that is new enough.
pub(crate) fn find_go() -> Option<PathBuf> {
    let candidates = [PathBuf::from("go"), PathBuf::from("/usr/local/go/bin/go")];
    candidates.into_iter().find(|go| go_version(go).is_ok_and(|text| release(&text) >= Some(OLDEST_GO)))
}

/// Major and minor version in `go version go1.26.8 linux/amd64`.
fn release(text: &str) -> Option<(u32, u32)> {
    let version =
        text.split_whitespace().find_map(|word| word.strip_prefix("go").filter(|rest| !rest.is_empty()))?;
    let mut numbers = version.split('.');
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

fn go_version(go: &Path) -> Result<String> {
    let output = Command::new(go).arg("version").output().context("ask Go for its version")?;
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// The version of a module that a `go.mod` requires.
fn pinned(source: &Path, module: &str) -> Result<String> {
    let path = source.join("go.mod");
    let version = required_version(&read(&path)?, module).map(str::to_owned);
    version.with_context(|| format!("{} requires no {module}", path.display()))
}

fn required_version<'a>(go_mod: &'a str, module: &str) -> Option<&'a str> {
    go_mod.lines().find_map(|line| {
        let mut words = line.split_whitespace().skip_while(|word| *word == "require");
        (words.next() == Some(module))
            .then(|| words.next())
            .flatten()
            .filter(|version| version.starts_with('v'))
    })
}

fn point_at(link: &Path, target: &str) -> Result<()> {
    if fs::read_link(link).is_ok_and(|old| old == Path::new(target)) {
        return Ok(());
    }
    fs::remove_file(link).ok();
    std::os::unix::fs::symlink(target, link).with_context(|| format!("link {}", link.display()))
}

fn read(path: &Path) -> Result<String> {
    fs::read_to_string(path).with_context(|| path.display().to_string())
}

/// Where things are kept that are dear to make and not part of the tree.
fn cache() -> Result<PathBuf> {
    let absolute = |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let base = absolute("XDG_CACHE_HOME").or_else(|| Some(absolute("HOME")?.join(".cache")));
    Ok(base.context("neither XDG_CACHE_HOME nor HOME is set")?.join("egressgateway"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_release_of_go_is_two_numbers() {
        assert_eq!(release("go version go1.26.8 linux/amd64"), Some((1, 26)));
        assert_eq!(release("go version go1.19 linux/amd64"), Some((1, 19)));
        assert_eq!(release("go version devel"), None);
    }

    #[test]
    fn the_pinned_version_is_that_of_the_require_line() {
        let text = "module a\n\nrequire helm.sh/helm/v3 v3.1.2\n\nrequire (\n\tk8s.io/kubernetes v1.34.4\n)\n\n\
                    replace (\n\tk8s.io/api => k8s.io/api v0.34.4\n)\n";
        assert_eq!(required_version(text, "k8s.io/kubernetes"), Some("v1.34.4"));
        assert_eq!(required_version(text, "helm.sh/helm/v3"), Some("v3.1.2"));
        assert_eq!(required_version(text, "k8s.io/api"), None);
    }
}
